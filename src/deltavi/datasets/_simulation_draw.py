"""The draws behind a simulated experiment: programmes of genes and types first, then cells, then counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats
from scipy.spatial.distance import cdist

from deltavi._types import FloatArray, IntArray
from deltavi.datasets._simulation_parameters import SimulationParameters

# Spread of the log expression over genes. With a few thousand counts in a thousand genes, nine zeros in ten entries
# are only possible when a minority of the genes holds most counts; the cap keeps any single gene from dominating.
BASE_SD = 3.7
BASE_CAP = 2.0
MARKER_FRACTION = 0.25
LOG_DISPERSION_SD = 0.5
# Share of a type's programme that is its own, however close another type lies: no two types coincide.
OWN_SHARE = 0.1


@dataclass(frozen=True)
class Truth:
    """Draws per gene or per type, before those of cells (natural logarithms)."""

    base: FloatArray  # (n_genes,)
    positions: FloatArray  # (n_cell_types, n_dimensions)
    similarity: FloatArray  # (n_cell_types, n_cell_types)
    identity: FloatArray  # (n_cell_types, n_genes)
    shared: FloatArray  # (n_targets, n_genes)
    response: FloatArray  # (n_conditions, n_cell_types, n_genes), zero for the control
    batch: FloatArray  # (n_batches, n_genes)
    inverse_dispersion: FloatArray  # (n_genes,)

    def relative_expression(self) -> FloatArray:
        """Share of each gene, shape ``(n_conditions, n_cell_types, n_batches, n_genes)``, summing to one over genes."""
        logits = self.base + self.identity[None, :, None] + self.response[:, :, None] + self.batch
        rate = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(rate / rate.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Cells:
    """Group and library of every cell; each array has shape ``(n_cells,)``."""

    condition: IntArray
    cell_type: IntArray
    batch: IntArray
    library: FloatArray


def draw_truth(parameters: SimulationParameters, generator: np.random.Generator) -> Truth:
    """Draw genes, types and programmes; they do not depend on the number of cells."""
    positions = parameters.given_positions()
    if positions is None:
        positions = generator.standard_normal((parameters.n_cell_types, 2))
    similarity = similarity_of(positions)
    n_markers = int(np.ceil(MARKER_FRACTION * parameters.n_genes))
    base = base_expression(parameters.n_genes, generator)
    identity = parameters.type_effect * correlated_programmes(similarity, parameters.n_genes, n_markers, generator)
    shared, response = _responses(parameters, similarity, generator)
    batch = parameters.batch_effect * generator.standard_normal((parameters.n_batches, parameters.n_genes))
    batch[0] = 0.0
    spread = LOG_DISPERSION_SD * generator.standard_normal(parameters.n_genes)
    theta = parameters.inverse_dispersion * np.exp(spread)
    return Truth(base, positions, similarity, identity, shared, response, batch, theta)


def similarity_of(positions: FloatArray) -> FloatArray:
    """Correlation between the programmes of types, shape ``(n_cell_types, n_cell_types)``, ones on the diagonal."""
    closeness = np.exp(-0.5 * cdist(positions, positions, "sqeuclidean"))
    return np.asarray((1.0 - OWN_SHARE) * closeness + OWN_SHARE * np.eye(len(positions)))


def base_expression(n_genes: int, generator: np.random.Generator) -> FloatArray:
    """Log expression of each gene: normal quantiles in random order, so that sparsity hardly varies with the seed."""
    quantiles = stats.norm.ppf((np.arange(n_genes) + 0.5) / n_genes)
    return np.asarray(BASE_SD * generator.permutation(np.minimum(quantiles, BASE_CAP)))


def correlated_programmes(
    similarity: FloatArray, n_genes: int, n_touched: int, generator: np.random.Generator
) -> FloatArray:
    """One programme per type, shape ``(n_cell_types, n_genes)``: unit variance, correlated like the types."""
    programmes = np.zeros((len(similarity), n_genes))
    touched = generator.permutation(n_genes)[:n_touched]
    independent = generator.standard_normal((len(similarity), n_touched))
    programmes[:, touched] = np.linalg.cholesky(similarity) @ independent
    return programmes


def _responses(
    parameters: SimulationParameters, similarity: FloatArray, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Shared programme of each perturbation, and the whole response of each type under each condition."""
    p = parameters
    shared = np.zeros((len(p.perturbations), p.n_genes))
    response = np.zeros((len(p.conditions), p.n_cell_types, p.n_genes))
    for i in range(len(p.perturbations)):
        touched = generator.permutation(p.n_genes)[: p.n_responding]
        shared[i, touched] = p.shared_effect * generator.standard_normal(p.n_responding)
        specific = p.specific_effect * correlated_programmes(similarity, p.n_genes, p.n_responding, generator)
        response[i + 1] = p.responsiveness_of_types()[:, None] * (shared[i] + specific)
    return shared, response


def draw_cells(parameters: SimulationParameters, generator: np.random.Generator) -> Cells:
    """Draw every group the same number of times, in random order, with log-normal libraries."""
    sizes = (len(parameters.conditions), parameters.n_cell_types, parameters.n_batches, parameters.n_cells_per_group)
    order = generator.permutation(int(np.prod(sizes)))
    condition, cell_type, batch, _ = np.unravel_index(order, sizes)
    library = parameters.median_library() * np.exp(parameters.library_sd * generator.standard_normal(len(order)))
    return Cells(condition, cell_type, batch, library)


def expected_counts(truth: Truth, cells: Cells) -> list[FloatArray]:
    """Scale shares to libraries: counts of every cell under each condition in turn, each ``(n_cells, n_genes)``."""
    return [cells.library[:, None] * share[cells.cell_type, cells.batch] for share in truth.relative_expression()]


def rate_under_own_condition(expected: list[FloatArray], cells: Cells) -> FloatArray:
    """Select for every cell its expectation under its own condition, shape ``(n_cells, n_genes)``."""
    rate = np.empty_like(expected[0])
    for code, values in enumerate(expected):
        members = cells.condition == code
        rate[members] = values[members]
    return rate


def draw_counts(rate: FloatArray, theta: FloatArray, generator: np.random.Generator) -> sparse.csr_matrix:
    """Negative binomial counts as a Poisson whose mean is Gamma distributed around `rate`."""
    counts = generator.poisson(generator.gamma(theta, rate / theta))
    return sparse.csr_matrix(counts, dtype=np.float32)
