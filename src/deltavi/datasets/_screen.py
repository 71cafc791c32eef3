"""Simulated screens with known truth: many perturbations in many contexts, with pairs, doses and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike
from scipy import sparse

from deltavi._cp10k import CP10K
from deltavi._entries import seed_number
from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.datasets._screen_cells import ScreenCells, draw_group_counts, draw_screen_cells
from deltavi.datasets._screen_expectation import ExpectedLog
from deltavi.datasets._screen_parameters import Gains, ScreenParameters
from deltavi.datasets._screen_truth import CONTROL, ScreenTruth, draw_screen
from deltavi.datasets._simulate import counted_names


@known_arguments
def simulate_screen(
    *,
    n_genes: int = 2000,
    n_contexts: int = 6,
    n_perturbations: int = 20,
    n_pairs: int = 0,
    n_drugs: int = 0,
    doses: Sequence[float] = (0.1, 1.0, 10.0),
    n_batches: int = 2,
    n_cells_per_group: int = 40,
    n_control_cells: int | None = None,
    unevenness: float = 0.5,
    absent_fraction: float = 0.0,
    n_programmes: int = 8,
    responding_fraction: float = 0.05,
    specific_effect: float = 0.6,
    generic_effect: float = 0.3,
    context_interaction: float = 0.5,
    gains: Gains = "similar",
    pair_interaction: float = 0.5,
    interacting_fraction: float = 0.5,
    size_sd: float = 0.5,
    inert_fraction: float = 0.1,
    knockdown: float = 0.8,
    context_positions: ArrayLike | None = None,
    context_effect: float = 1.0,
    batch_effect: float = 0.2,
    library_median: float | None = None,
    library_sd: float = 0.4,
    inverse_dispersion: float = 1.5,
    seed: int | np.random.Generator = 0,
) -> AnnData:
    """Simulate raw counts of a screen, many perturbations in many contexts, whose true changes are known.

    Perturbations are named after the gene that they knock down. Beyond their target they move a few of the gene
    programmes, in every context by another gain, and a generic response that all of them share, such as stress. With
    ``W_k`` the loadings of programme k, ``u`` those of the generic response, ``size_p`` the size of perturbation p, and
    natural logarithms throughout::

        r_cp    = size_p * (generic_effect * (1 + i * z_c) * u  +  specific_effect * sum_k a_pk * (1 + i * z_cpk) * W_k)
        r_cA+B  = r_cA + r_cB + interaction_AB
        r_cpd   = r_cp * d ** h_p / (d ** h_p + half_p ** h_p)          a drug p at dose d
        share   = softmax over genes of (base_g + identity_gc + batch_gb), times exp(r_cp), times the knockdown
        counts  ~ NB(mean library_n * share, variance mean + mean ** 2 / theta_g)

    with i the `context_interaction` and z standard normal, correlated between contexts as their control profiles are
    (``gains="similar"``) or independent (``gains="random"``). Responding genes keep their common share of the counts,
    so that the other genes do not change, but for less than 0.01 by what a knocked-down target sets free and by totals
    that vary more or less.

    Parameters
    ----------
    n_genes, n_contexts, n_perturbations, n_batches
        Numbers of genes, contexts (cell types, lines, donors), perturbed genes and batches.
    n_pairs
        Number of pairs of perturbations, drawn at random and named ``"A+B"``.
    n_drugs, doses
        Number of drugs, which have no target, and the doses at which each is given, above zero.
    n_cells_per_group
        Average number of cells of a context under a condition, over the groups that are present.
    n_control_cells
        Control cells of each context; four times `n_cells_per_group` when None.
    unevenness
        Standard deviation of the natural logarithm of the sizes of perturbed groups; at 0 all are alike.
    absent_fraction
        Share of the perturbed groups that have no cells, chosen at random.
    n_programmes, responding_fraction
        Number of programmes, and the fraction of the genes in each of them and in the generic response. A perturbation
        moves two programmes. The tenth of the genes that is expressed most, which holds most counts, is in none.
    specific_effect, generic_effect
        Standard deviation over the genes of a programme of the natural-log fold change by a perturbation of size 1
        (from half to one and a half of it, in either direction), and the same for the generic response.
    context_interaction
        Standard deviation of the gains of contexts around 1.
    gains
        ``"similar"``: contexts with similar control profiles have similar gains; ``"random"``: independent ones.
    pair_interaction, interacting_fraction
        Standard deviation of the natural-log fold change of a pair beyond the sum of its parts, over the genes of one
        programme, and the fraction of the pairs that interact at all.
    size_sd, inert_fraction
        Standard deviation of the natural logarithm of the sizes of perturbations, and the fraction of the perturbations
        of size 0, which change nothing but their target.
    knockdown
        Fraction of the expression of a target that its perturbation takes away, below 1.
    context_positions
        Positions of the contexts, shape ``(n_contexts, n_dimensions)``, by which they are similar as
        ``exp(-squared distance / 2)``; drawn from a standard normal in two dimensions when None.
    context_effect
        Standard deviation of the natural-log differences of a context from the others, over its marker genes.
    batch_effect
        Standard deviation of the natural-log factor of a batch on a gene; the first batch is the reference.
    library_median, library_sd
        Median of the expected counts per cell, and standard deviation of their natural logarithm. A median of None
        stands for two counts per gene, at most 3,000.
    inverse_dispersion
        Median over genes of theta in the formula above; large values approach a Poisson.
    seed
        A whole number seeds a generator of its own; a generator is used as it is and advances.
        NumPy's global random state is never touched.

    Returns
    -------
    AnnData, cells in random order:

    * ``X``: raw counts, CSR float32;
    * ``obs``: categorical ``context``, ``condition`` (``"control"`` first; a drug has a condition per dose, such as
      ``"drug_1_0.1"``), ``perturbation`` (the same without doses) and ``batch``; ``dose`` (0 in control cells, missing
      where a perturbation has none), ``total_counts`` (observed) and ``library_size`` (expected);
    * ``var``: ``inverse_dispersion`` (theta) and ``is_target``;
    * ``uns["truth"]``: the truth, of all groups whether cells were drawn or not, natural logarithms, float32:

      - ``contexts``, ``conditions`` and ``genes``: names along the axes of the arrays below;
      - ``control``, ``(n_contexts, n_genes)``: expected log1p CP10k of a control cell;
      - ``change``, ``(n_contexts, n_conditions, n_genes)``: the change of it, to which the difference of the means of
        many perturbed and many control cells converges;
      - ``change_of_expected_mean``, the same shape: change of log1p of the expected CP10k, to which the log1p of means
        of CP10k converges;
      - ``log_fold_change``, the same shape: r of the formula, with the knockdown of targets;
      - ``responds``, ``(n_conditions, n_genes)``: True where r is not zero;
      - ``table``: a row per condition with ``perturbation``, ``kind`` (``"gene"``, ``"pair"``, ``"drug"``), ``dose``
        and ``size`` (missing for pairs);
      - ``pair_interaction``, ``(n_conditions, n_genes)``: the interaction of pairs, 0 for other conditions;
      - ``context_gains``, ``(n_contexts, n_effects, n_programmes)``, ``generic_gains``, ``(n_contexts,)``,
        ``programmes``, ``(n_programmes, n_genes)``, and ``programme_scores``, ``(n_effects, n_programmes)``: the gains
        ``1 + i * z``, W, and the factors of W before them. Effects are perturbed genes, then drugs: ``effects``;
      - ``drugs``: a row per drug with ``half_dose`` and ``slope`` (h) of the dose response;
      - ``context_positions`` and ``context_similarity``;

    * ``uns["simulation"]``: the parameters.

    Changes are averages over the batches, each counted alike.

    Raises
    ------
    DeltaviError
        If a parameter lies outside its range, or there are not as many pairs or target genes.

    Notes
    -----
    ``change`` is computed by quadrature over counts, libraries and totals; it is accurate to about 0.01.

    Examples
    --------
    >>> adata = simulate_screen(n_genes=100, n_contexts=3, n_perturbations=4, n_pairs=1, n_cells_per_group=5)
    >>> adata.shape
    (135, 100)
    >>> adata.uns["truth"]["change"].shape
    (3, 5, 100)
    """
    given = {name: value for name, value in locals().items() if name != "seed"}
    parameters = ScreenParameters(**given)
    generator = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed_number("seed", seed))
    genes = counted_names("GENE", parameters.n_genes, width=4)
    truth = draw_screen(parameters, genes, generator)
    cells = draw_screen_cells(parameters, len(truth.treatments.table), generator)
    counts, changes = _draw_by_context(parameters, truth, cells, generator)
    return _assemble(parameters, truth, cells, counts, changes, genes, generator)


@dataclass(frozen=True, eq=False)
class _Changes:
    """True changes of a context and its control, float32; arrays of the truth in the docstring above."""

    control: np.ndarray
    change: np.ndarray
    change_of_expected_mean: np.ndarray
    log_fold_change: np.ndarray


def _draw_by_context(
    parameters: ScreenParameters, truth: ScreenTruth, cells: ScreenCells, generator: np.random.Generator
) -> tuple[sparse.csr_matrix, list[_Changes]]:
    """Counts of all cells and the true changes; only one context at a time has its shares in memory."""
    counts, changes = [], []
    expected = _expected_log(parameters, truth)
    for context in range(parameters.n_contexts):
        shares = truth.shares(context)
        members = cells.context == context
        group = cells.condition[members] * parameters.n_batches + cells.batch[members]
        flat = shares.reshape(-1, parameters.n_genes)
        counts.append(draw_group_counts(flat, group, cells.library[members], truth.inverse_dispersion, generator))
        changes.append(_changes(truth, context, shares, expected))
    return sparse.vstack(counts, format="csr"), changes


def _expected_log(parameters: ScreenParameters, truth: ScreenTruth) -> ExpectedLog:
    """Table of expectations that reaches as far as the shares of all contexts do."""
    theta, low, high, spreads = truth.inverse_dispersion, np.inf, 0.0, []
    for context in range(parameters.n_contexts):
        shares = _of_total(truth.shares(context))
        low, high = min(low, float(shares.min())), max(high, float(shares.max()))
        spreads.append(_spread(shares, theta))
    return ExpectedLog(
        (low, high),
        (float(theta.min()), float(theta.max())),
        (float(min(s.min() for s in spreads)), float(max(s.max() for s in spreads))),
        library_median=parameters.median_library(),
        library_sd=parameters.library_sd,
    )


def _of_total(shares: FloatArray) -> FloatArray:
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def _spread(shares: FloatArray, theta: FloatArray) -> FloatArray:
    """Squared coefficient of variation of totals beyond that of a Poisson."""
    return np.asarray((shares**2 / theta).sum(axis=-1))


def _changes(truth: ScreenTruth, context: int, shares: FloatArray, expected: ExpectedLog) -> _Changes:
    relative = _of_total(shares)
    theta = truth.inverse_dispersion
    of_cells = expected(relative, theta, _spread(relative, theta)).mean(axis=1)
    of_means = np.log1p(CP10K * relative).mean(axis=1)
    found = (
        *(of_cells[0], of_cells[1:] - of_cells[0], of_means[1:] - of_means[0]),
        truth.log_fold_change(context) + truth.knockdown(),
    )
    return _Changes(*(values.astype(np.float32) for values in found))


def _assemble(
    parameters: ScreenParameters,
    truth: ScreenTruth,
    cells: ScreenCells,
    counts: sparse.csr_matrix,
    changes: list[_Changes],
    genes: list[str],
    generator: np.random.Generator,
) -> AnnData:
    """Join counts and truth in one AnnData, cells in random order."""
    order = generator.permutation(counts.shape[0])
    counts = counts[order]
    is_target = np.isin(np.arange(len(genes)), truth.target_genes)
    var = pd.DataFrame({"inverse_dispersion": truth.inverse_dispersion, "is_target": is_target}, index=pd.Index(genes))
    adata = AnnData(X=counts, obs=_obs(parameters, truth, cells, order, counts), var=var)
    adata.uns["truth"] = _record_of_truth(parameters, truth, changes, genes)
    adata.uns["simulation"] = _record(parameters)
    return adata


def _obs(
    parameters: ScreenParameters, truth: ScreenTruth, cells: ScreenCells, order: np.ndarray, counts: sparse.csr_matrix
) -> pd.DataFrame:
    table = truth.treatments.table
    condition = cells.condition[order]
    perturbations = np.array([CONTROL, *table["perturbation"]], dtype=object)
    columns: dict[str, Any] = {
        "context": _coded(cells.context[order], counted_names("context_", parameters.n_contexts)),
        "condition": _coded(condition, [CONTROL, *table.index]),
        "perturbation": pd.Categorical(perturbations[condition], pd.unique(perturbations)).remove_unused_categories(),
        "dose": np.array([0.0, *table["dose"]])[condition],
        "batch": _coded(cells.batch[order], counted_names("batch_", parameters.n_batches)),
        "total_counts": np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(),
        "library_size": cells.library[order],
    }
    return pd.DataFrame(columns, index=pd.Index(counted_names("CELL", len(order), width=6)))


def _coded(codes: np.ndarray, names: Sequence[str]) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes, pd.Index(names)).remove_unused_categories()


def _record_of_truth(
    parameters: ScreenParameters, truth: ScreenTruth, changes: list[_Changes], genes: list[str]
) -> dict[str, object]:
    """Collect the truth as the docstring lists it, in forms that h5ad files hold."""
    effects, treatments = truth.effects, truth.treatments
    n_singles = parameters.n_perturbations
    names = [*treatments.table.index[:n_singles], *treatments.drugs.index]
    size = dict(zip(names, effects.size, strict=True))
    table = treatments.table.assign(size=[size.get(name, np.nan) for name in treatments.table["perturbation"]])
    log_fold_change = np.stack([of.log_fold_change for of in changes])
    return {
        "contexts": np.array(counted_names("context_", parameters.n_contexts), dtype=object),
        "conditions": np.array(treatments.table.index, dtype=object),
        "genes": np.array(genes, dtype=object),
        "control": np.stack([of.control for of in changes]),
        "change": np.stack([of.change for of in changes]),
        "change_of_expected_mean": np.stack([of.change_of_expected_mean for of in changes]),
        "log_fold_change": log_fold_change,
        "responds": (log_fold_change != 0).any(axis=0),
        "table": table,
        "pair_interaction": truth.pair_interaction.astype(np.float32),
        "effects": np.array(names, dtype=object),
        "context_gains": effects.gains.astype(np.float32),
        "generic_gains": effects.generic_gains.astype(np.float32),
        "programmes": effects.programmes.astype(np.float32),
        "programme_scores": effects.scores.astype(np.float32),
        "drugs": treatments.drugs,
        "context_positions": truth.positions,
        "context_similarity": truth.similarity,
    }


def _record(parameters: ScreenParameters) -> dict[str, object]:
    """Collect the parameters in forms that h5ad files hold; positions stand in the truth."""
    record = {name: value for name, value in asdict(parameters).items() if name != "context_positions"}
    record["doses"] = parameters.dose_levels()
    record["n_control_cells"] = parameters.control_cells()
    record["library_median"] = parameters.median_library()
    return record
