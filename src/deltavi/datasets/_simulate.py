"""Simulated perturbation experiments with known truth: counts, expectations and responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike
from scipy import sparse

from deltavi import _keys
from deltavi._entries import seed_number
from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.datasets._simulation_draw import (
    Cells,
    Truth,
    draw_cells,
    draw_counts,
    draw_truth,
    expected_counts,
    rate_under_own_condition,
)
from deltavi.datasets._simulation_parameters import SimulationParameters


@known_arguments
def simulate_perturbation(
    *,
    n_genes: int = 1000,
    n_cell_types: int = 6,
    n_batches: int = 2,
    n_cells_per_group: int = 100,
    conditions: Sequence[str] = ("control", "stimulated"),
    shared_effect: float = 1.0,
    specific_effect: float = 0.7,
    responding_fraction: float = 0.2,
    responsiveness: Sequence[float] | None = None,
    type_positions: ArrayLike | None = None,
    type_effect: float = 1.0,
    batch_effect: float = 0.2,
    library_median: float | None = None,
    library_sd: float = 0.4,
    inverse_dispersion: float = 1.5,
    seed: int | np.random.Generator = 0,
) -> AnnData:
    """Simulate raw counts of cell types under a control and one or more perturbed conditions, with known truth.

    Cell types have positions in a low-dimensional space, and two types are as similar as
    ``exp(-squared distance / 2)``. That similarity is the correlation, over genes, of the differences between types
    and of their responses, so that close types have similar profiles and responses. For cell ``n`` of type ``t``,
    batch ``b`` and condition ``c``::

        log fold change   r_gtc  = responsiveness_t * (shared_gc + specific_gtc),  zero under the control
        share of gene g   p_gtbc = softmax over genes of (base_g + identity_gt + batch_gb + r_gtc)
        expected counts   mu_gn  = library_n * p_gtbc
        counts            x_gn   ~ NB(mean mu_gn, variance mu_gn + mu_gn ** 2 / theta_g)

    Parameters
    ----------
    n_genes, n_cell_types, n_batches
        Numbers of genes, types and batches.
    n_cells_per_group
        Cells of each combination of cell type, condition and batch.
    conditions
        Names of the conditions; the first one is the control. Each perturbation has programmes of its own.
    shared_effect
        Standard deviation, over the responding genes, of the natural-log fold change common to all types.
    specific_effect
        The same for the part of the response that varies with the type.
    responding_fraction
        Fraction of the genes that respond in the shared programme, and, drawn separately, in the specific ones.
    responsiveness
        Factor on the whole response of each type, ``n_cell_types`` numbers; 1 for all when None.
    type_positions
        Positions of the types, shape ``(n_cell_types, n_dimensions)``; drawn from a standard normal in two
        dimensions when None.
    type_effect
        Standard deviation of the natural-log differences of a type from the others, over its marker genes.
    batch_effect
        Standard deviation of the natural-log factor of a batch on a gene; the first batch is the reference.
    library_median, library_sd
        Median of the expected counts per cell, and standard deviation of their natural logarithm. A median of None
        stands for two counts per gene, at most 3,000: eight entries in ten and more are then zero.
    inverse_dispersion
        Median over genes of theta in the formula above; large values approach a Poisson.
    seed
        A whole number seeds a generator of its own; a generator is used as it is and advances.
        NumPy's global random state is never touched.

    Returns
    -------
    AnnData of shape ``(n_cell_types * n_conditions * n_batches * n_cells_per_group, n_genes)``, cells in random order:

    * ``X``: raw counts, CSR float32;
    * ``layers["rate"]``: expected counts of the cell as it is, dense float32;
    * ``layers["expected_<condition>"]`` for every condition: expected counts of the same cell, with its own library,
      type and batch, were it in that condition. Under its own condition this equals ``layers["rate"]``;
    * ``obs``: categorical ``condition``, ``cell_type`` and ``batch``, ``total_counts`` (observed) and
      ``library_size`` (expected);
    * ``var``: ``base_expression`` (natural log, up to a constant), ``inverse_dispersion`` (theta) and
      ``shared_response_<perturbation>`` (natural-log fold change);
    * ``varm["response_<perturbation>"]``: table genes x cell types of the whole natural-log fold change ``r``. As
      shares sum to one, the log ratio of two expectations of a cell equals ``r`` up to one constant per type and batch;
    * ``uns["simulation"]``: the parameters, ``type_positions`` and ``type_similarity``.

    Raises
    ------
    DeltaviError
        If a parameter lies outside its range.

    Notes
    -----
    The layers are dense: a cell takes ``4 * n_genes * (n_conditions + 1)`` bytes beside its counts.

    Examples
    --------
    >>> adata = simulate_perturbation(n_genes=50, n_cells_per_group=5)
    >>> adata.shape
    (120, 50)
    """
    parameters = SimulationParameters(
        n_genes=n_genes,
        n_cell_types=n_cell_types,
        n_batches=n_batches,
        n_cells_per_group=n_cells_per_group,
        conditions=conditions,
        shared_effect=shared_effect,
        specific_effect=specific_effect,
        responding_fraction=responding_fraction,
        responsiveness=responsiveness,
        type_positions=type_positions,
        type_effect=type_effect,
        batch_effect=batch_effect,
        library_median=library_median,
        library_sd=library_sd,
        inverse_dispersion=inverse_dispersion,
    )
    generator = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed_number("seed", seed))
    truth = draw_truth(parameters, generator)
    cells = draw_cells(parameters, generator)
    expected = expected_counts(truth, cells)
    rate = rate_under_own_condition(expected, cells)
    counts = draw_counts(rate, truth.inverse_dispersion, generator)
    return _assemble(parameters, truth, cells, expected, rate, counts)


def _assemble(
    parameters: SimulationParameters,
    truth: Truth,
    cells: Cells,
    expected: list[FloatArray],
    rate: FloatArray,
    counts: sparse.csr_matrix,
) -> AnnData:
    """Join counts and truth in one AnnData."""
    adata = AnnData(X=counts, obs=_obs(parameters, cells, counts), var=_var(parameters, truth))
    adata.layers[_keys.LAYER_RATE] = rate.astype(np.float32)
    for condition, values in zip(parameters.conditions, expected, strict=True):
        adata.layers[f"expected_{condition}"] = values.astype(np.float32)
    types = list(adata.obs["cell_type"].cat.categories)
    for perturbation, response in zip(parameters.perturbations, truth.response[1:], strict=True):
        adata.varm[f"response_{perturbation}"] = pd.DataFrame(response.T, index=adata.var_names, columns=types)
    adata.uns["simulation"] = _record(parameters, truth)
    return adata


def _obs(parameters: SimulationParameters, cells: Cells, counts: sparse.csr_matrix) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "condition": pd.Categorical.from_codes(cells.condition, pd.Index(parameters.conditions)),
            "cell_type": pd.Categorical.from_codes(
                cells.cell_type, pd.Index(counted_names("type_", parameters.n_cell_types))
            ),
            "batch": pd.Categorical.from_codes(cells.batch, pd.Index(counted_names("batch_", parameters.n_batches))),
            "total_counts": np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(),
            "library_size": cells.library,
        },
        index=pd.Index(counted_names("CELL", len(cells.library), width=6)),
    )


def _var(parameters: SimulationParameters, truth: Truth) -> pd.DataFrame:
    columns = {"base_expression": truth.base, "inverse_dispersion": truth.inverse_dispersion}
    for perturbation, shared in zip(parameters.perturbations, truth.shared, strict=True):
        columns[f"shared_response_{perturbation}"] = shared
    return pd.DataFrame(columns, index=pd.Index(counted_names("GENE", parameters.n_genes, width=4)))


def counted_names(prefix: str, n: int, *, width: int = 1) -> list[str]:
    """`n` names that count from one and sort as they count."""
    width = max(width, len(str(n)))
    return [f"{prefix}{i:0{width}d}" for i in range(1, n + 1)]


def _record(parameters: SimulationParameters, truth: Truth) -> dict[str, object]:
    """Collect the parameters and the similarity of the types, in forms that h5ad files hold."""
    record = asdict(parameters)
    record["conditions"] = np.array(parameters.conditions)
    record["library_median"] = parameters.median_library()
    record["responsiveness"] = parameters.responsiveness_of_types()
    record["type_positions"] = truth.positions
    record["type_similarity"] = truth.similarity
    return record
