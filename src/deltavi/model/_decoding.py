"""Decode moved cells into what a prediction holds: profile, rate, counts, interval."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi._compat import MODULE_KEYS
from deltavi._cp10k import log1p_cp10k, log1p_cp10k_rows
from deltavi._keys import LAYER_COUNTS, LAYER_LOWER, LAYER_RATE, LAYER_UPPER
from deltavi._types import Rows
from deltavi.likelihood import Likelihood
from deltavi.likelihood.base import to_numpy
from deltavi.likelihood.rows import quantile_rows
from deltavi.model._question import INDEPENDENT, Draws
from deltavi.module import VAE
from deltavi.perturbation.coupling import count_coupling, couple
from deltavi.perturbation.noise import Generators, normals, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Output = Literal["cells", "mean"]
# Bounds of the predictive interval.
INTERVAL = (0.05, 0.95)
# Draws behind an expectation of log expression; the log of a mean is not the mean of logs.
EXPECTATION_DRAWS = 16


@dataclass(frozen=True, eq=False)
class Predicted:
    """Prediction for some cells, ``(n_cells, n_genes)`` each.

    Parameters
    ----------
    profile
        log1p CP10k as CSR; where the likelihood is not of counts, dense on the input's scale.
    rate
        Expected counts (else expected values) in single precision.
    counts
        Sampled counts as CSR, or ``None`` where the likelihood is not of counts.
    lower, upper
        Bounds of the predictive interval on the scale of `profile`, where it was asked for.
    """

    profile: Any
    rate: NDArray[np.float32]
    counts: sparse.csr_matrix | None
    lower: NDArray[np.float32] | None = None
    upper: NDArray[np.float32] | None = None

    def layers(self, kept: Container[str] | None = None) -> dict[str, Rows]:
        """Matrices beside the profile under the names of their layers; those `kept` alone, if that is given."""
        found = {LAYER_RATE: self.rate, LAYER_COUNTS: self.counts, LAYER_LOWER: self.lower, LAYER_UPPER: self.upper}
        return {name: rows for name, rows in found.items() if rows is not None and (kept is None or name in kept)}


def stack(
    parts: Sequence[Predicted],
    n_genes: int,
    *,
    of_counts: bool = True,
    interval: bool = False,
) -> Predicted:
    """Join mini-batches; without any, what their prediction would hold if it had cells.

    Parameters
    ----------
    parts
        Mini-batches.
    n_genes
        Genes of each.
    of_counts, interval
        Content that they have, if there are any.
    """
    if not parts:
        empty = np.zeros((0, n_genes), dtype=np.float32)
        rows = sparse.csr_matrix(empty)
        bounds = {"lower": empty, "upper": empty} if interval else {}
        return Predicted(rows if of_counts else empty, rate=empty, counts=rows if of_counts else None, **bounds)
    return Predicted(**{name: _join([getattr(part, name) for part in parts]) for name in Predicted.__annotations__})


def _join(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    return sparse.csr_matrix(sparse.vstack(values)) if sparse.issparse(values[0]) else np.concatenate(values)


class CellDecoder:
    """Decode the cells of one mini-batch at any latent position and condition.

    Parameters
    ----------
    module
        Trained module.
    tensors
        The mini-batch: library, batch and covariates of each cell are its own.
    """

    def __init__(self, module: VAE, tensors: dict[str, Tensor]) -> None:
        self.module, self.tensors = module, tensors
        self.inputs = module._get_generative_input(tensors, self._given)
        self.observed = tensors[REGISTRY_KEYS.X_KEY].cpu().numpy()

    @cached_property
    def posterior_mean(self) -> NDArray[np.float64]:
        """Mean of the latent position of each cell, ``(n_cells, n_latent)``."""
        return to_numpy(self._encoded[MODULE_KEYS.QZ_KEY].loc)

    @cached_property
    def posterior_scale(self) -> NDArray[np.float64]:
        """Standard deviation of the latent position of each cell, ``(n_cells, n_latent)``."""
        return to_numpy(self._encoded[MODULE_KEYS.QZ_KEY].scale)

    @cached_property
    def _encoded(self) -> dict[str, Any]:
        return dict(self.module.inference(**self.module._get_inference_input(self.tensors)))

    @property
    def _given(self) -> dict[str, Any]:
        """Results of encoding that decoding is given; a known library needs no encoder, the position is replaced."""
        if self.module.library == "learned":
            return {**self._encoded, MODULE_KEYS.LIBRARY_KEY: self._encoded[MODULE_KEYS.QL_KEY].loc}
        x = self.tensors[REGISTRY_KEYS.X_KEY]
        library = self.module.known_library(x, self.tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))
        return {MODULE_KEYS.Z_KEY: x[:, :0], MODULE_KEYS.LIBRARY_KEY: library}

    def __call__(
        self,
        z: np.ndarray,
        *,
        condition: int | None = None,
        batch: int | Tensor | None = None,
    ) -> Likelihood:
        """Likelihood at `z` ``(n_cells, n_latent)``, as if the cells were of `condition` or from `batch`."""
        inputs = {**self.inputs, MODULE_KEYS.Z_KEY: torch.from_numpy(np.asarray(z, dtype=np.float32))}
        if condition is not None and inputs.get("condition") is not None:
            inputs["condition"] = torch.full_like(inputs["condition"], condition)
        if batch is not None:
            inputs["transform_batch"] = batch
        likelihood: Likelihood = self.module.generative(**inputs)["likelihood"]
        return likelihood.without_scale()


def predict_cells(
    observed: np.ndarray,
    source: Likelihood,
    target: Likelihood,
    *,
    totals: np.ndarray,
    output: Output,
    generators: Generators,
    cells: Likelihood | None = None,
    draws: Draws = "matched",
) -> Predicted:
    """Profile, rate and sampled counts of cells that go from `source` to `target`.

    `cells` is what observed values are carried to, where that is not `target` itself; with independent `draws` they
    are not carried, and the profile is that of the sampled counts.
    """
    rate = target.mean.detach().cpu().numpy().astype(np.float32, copy=False)
    n_genes = observed.shape[1]
    if not target.of_counts and output == "mean":
        return Predicted(profile=np.maximum(rate, 0), rate=rate, counts=None)
    first, carried = uniforms(generators, n_genes), target if cells is None else cells
    if not target.of_counts:
        drawn = draws == INDEPENDENT
        found = target.quantile(first) if drawn else couple(observed, source, carried, uniform=first)
        return Predicted(profile=np.maximum(found, 0).astype(np.float32), rate=rate, counts=None)
    if draws == INDEPENDENT:
        coupled = counts = quantile_rows(target, first)
    else:
        # where expectations are asked for, carried counts are not
        coupled = count_coupling(observed, source, uniform=first)(carried) if output == "cells" else None
        counts = quantile_rows(target, uniforms(generators, n_genes))
    values: Any = expected_log(target, totals, generators) if coupled is None else profile_rows(coupled, totals)
    return Predicted(profile=values, rate=rate, counts=counts.astype(np.float32))


def profile_of(values: np.ndarray, totals: np.ndarray, *, of_counts: bool) -> np.ndarray:
    """Values of cells on the scale of a profile: log1p CP10k of counts; other expression is on its scale already."""
    return log1p_cp10k(values, totals) if of_counts else values


def profile_rows(counts: sparse.csr_matrix, totals: np.ndarray) -> sparse.csr_matrix:
    """As :func:`profile_of` counts in CSR, without zeros."""
    rows = log1p_cp10k_rows(counts, totals).astype(np.float32)
    # of a total beyond all bounds
    rows.eliminate_zeros()
    return rows


def expected_log(likelihood: Likelihood, totals: np.ndarray, generators: Generators) -> NDArray[np.float32]:
    """Expectation of log1p CP10k under `likelihood`, by stratified draws, ``(n_cells, n_genes)``."""
    offset = uniforms(generators, likelihood.rate.shape[-1])
    summed = np.zeros(offset.shape, dtype=np.float32)
    for k in range(EXPECTATION_DRAWS):
        drawn = profile_rows(quantile_rows(likelihood, (k + offset) / EXPECTATION_DRAWS), totals).tocoo()
        summed[drawn.row, drawn.col] += drawn.data
    return summed / np.float32(EXPECTATION_DRAWS)


def predictive_interval(
    decode: Callable[[np.ndarray], Likelihood],
    z: np.ndarray,
    scale: np.ndarray,
    *,
    totals: np.ndarray,
    n_samples: int,
    generators: Generators,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds of the posterior predictive of each cell and gene, on the scale of the profile.

    Parameters
    ----------
    decode
        Likelihood at a latent position.
    z, scale
        ``(n_cells, n_latent)`` mean and standard deviation of the posterior, after the shift.
    totals
        ``(n_cells,)`` total counts for CP10k.
    n_samples
        Draws of latent position and counts.
    generators
        One per cell.
    """
    draws = []
    for _ in range(n_samples):
        likelihood = decode(z + scale * normals(generators, z.shape[1]))
        u = uniforms(generators, likelihood.rate.shape[-1])
        if likelihood.of_counts:
            draws.append(profile_rows(quantile_rows(likelihood, u), totals).toarray())
        else:
            draws.append(likelihood.quantile(u).astype(np.float32))
    lower, upper = np.quantile(np.stack(draws), INTERVAL, axis=0).astype(np.float32)
    return lower, upper


__all__ = ["CellDecoder", "Output", "Predicted", "predict_cells", "predictive_interval", "stack"]
