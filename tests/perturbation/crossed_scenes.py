"""Tables of responses that tests of the crossed Gaussian process share, and its dense form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deltavi.perturbation import ResponseTable
from deltavi.perturbation.crossed_kernel import ContextKernel, Weights


def scene(
    seed: int, n_contexts: int = 4, n_perturbations: int = 5, n_genes: int = 6, *, complete: bool = False
) -> ResponseTable:
    """Changes of singles, some of which were not measured everywhere, and of two pairs of perturbations."""
    rng = np.random.default_rng(seed)
    asked = [
        (c, [p])
        for c in range(n_contexts)
        for p in range(n_perturbations)
        if complete or p == c % n_perturbations or rng.random() < 0.8
    ]
    if not complete and n_perturbations > 2:
        asked += [(0, [0, 1]), (n_contexts - 1, [1, 2])]
    parts = np.zeros((len(asked), n_perturbations))
    for row, (_, own) in enumerate(asked):
        parts[row, own] = 1
    kept = parts.any(0)
    return ResponseTable(
        changes=rng.normal(size=(len(asked), n_genes)),
        context_of=np.array([c for c, _ in asked]),
        parts=parts[:, kept],
        n_perturbed=rng.integers(5, 50, len(asked)),
        n_control=rng.integers(5, 50, n_contexts),
        control_means=rng.uniform(0, 2, (n_contexts, n_genes)),
        variances=rng.uniform(0.1, 1, n_genes),
        contexts=tuple(f"type {c}" for c in range(n_contexts)),
        perturbations=tuple(f"drug {p}" for p in np.flatnonzero(kept)),
        genes=tuple(f"gene {g}" for g in range(n_genes)),
    )


def structured(seed: int, n_contexts: int = 6, n_perturbations: int = 8, n_genes: int = 60) -> ResponseTable:
    """Changes of few programmes that contexts and perturbations share, larger than their noise."""
    rng = np.random.default_rng(seed)
    table = scene(seed, n_contexts, n_perturbations, n_genes)
    loadings = rng.normal(size=(3, n_genes)) * rng.gamma(0.5, 1, n_genes)
    of_parts = rng.normal(size=(len(table.perturbations), 3)) + 1
    of_contexts = 0.4 * rng.normal(size=(n_contexts, 3))
    true = (table.parts @ of_parts + of_contexts[table.context_of]) @ loadings
    shared = rng.normal(size=(n_contexts, n_genes)) * np.sqrt(table.variances / table.n_control[:, None])
    own = rng.normal(size=true.shape) * np.sqrt(table.variances[0] / table.n_perturbed[:, None])
    return replaced(table, changes=true + shared[table.context_of] + own)


def replaced(table: ResponseTable, **changes: object) -> ResponseTable:
    """The table with other arrays or names."""
    return replace(table, **changes)  # type: ignore[arg-type]


def signal_covariance(table: ResponseTable, kernel: ContextKernel, weights: Weights) -> np.ndarray:
    """Dense covariance of true changes, term by term as it is written down."""
    similarity = kernel.between(table)
    n = table.n_pairs
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            k = similarity[table.context_of[i], table.context_of[j]]
            sizes = table.parts[i].sum() * table.parts[j].sum()
            same = table.pairs[i] == table.pairs[j]
            found[i, j] = sizes * (weights.generic + weights.context * k) + table.parts[i] @ table.parts[j] * (
                weights.perturbation + weights.interaction * k + weights.own * same
            )
    return found


def noise_covariance(table: ResponseTable) -> np.ndarray:
    """Dense covariance of the noise, in variances of one cell."""
    together = table.context_of[:, None] == table.context_of
    return np.diag(1 / table.n_perturbed) + together / table.n_control[table.context_of]
