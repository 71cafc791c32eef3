"""Table of the genes that a perturbation is predicted to change, as tests of differential expression are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike

from deltavi import _keys
from deltavi._entries import names, one_name, require_anndata
from deltavi._errors import DeltaviError, GeneMatchError, InputDataError, examples
from deltavi._reading import known_arguments
from deltavi._types import FloatArray, State
from deltavi.metrics.significance import MIN_CHANGE
from deltavi.perturbation import (
    Experiment,
    GeneTable,
    Recalibration,
    ResponseModel,
    ResponsePrediction,
    calibrated,
    called_genes,
    gene_table,
    recalibration,
)

if TYPE_CHECKING:
    from deltavi._types import IntArray

# Pairs and genes that probabilities are recalibrated on, spread evenly over all.
MOST_PAIRS, MOST_GENES = 40, 3000
# Joins the names of a context and of a perturbation to that of a group.
JOINT = " | "


@known_arguments
def differential_response(
    adata: AnnData,
    responses: ResponseModel,
    perturbations: str | Sequence[str] | None = None,
    *,
    contexts: str | Sequence[str] | None = None,
    profiles: Mapping[str, ArrayLike] | None = None,
    n_perturbed: int | None = None,
    n_control: int | None = None,
    alpha: float = 0.05,
    min_change: float = MIN_CHANGE,
    level: float = 0.9,
    key_added: str = _keys.UNS_DIFFERENTIAL,
) -> None:
    """Predict which genes change, by how much and how surely, and write the table to ``adata.uns``.

    It takes the place of a test between predicted and control cells, which says nothing: predicted cells are paired
    with control cells, and there are as many of them as one likes. The unit is the measured response: change and
    variance are those of a :class:`deltavi.perturbation.ResponseModel`, and the probability that an experiment would
    call a gene is corrected by what was measured, each measured response predicted from the others.

    Parameters
    ----------
    adata
        AnnData that is given the table, such as a prediction; its genes have to be among those of `responses`.
    responses
        What was measured, for as many genes as there were.
    perturbations
        One or several to predict, single or combined as in ``"A+B"``; by default all measured ones.
    contexts
        Contexts of `responses` to predict them in; by default all, or none where `profiles` are given.
    profiles
        New contexts: name -> mean of its control cells, (n_genes,), log1p CP10k, in the order of the genes of
        `responses`; a Series is matched by name.
    n_perturbed, n_control
        Cells of the experiment that is meant; by default as many as the context has control cells, and of a new
        context as many as contexts have on the median.
    alpha
        False discovery rate of the calls of that experiment.
    min_change
        Least measured change of a gene that the experiment calls, log1p CP10k. With hundreds of cells small
        differences that come from the depth of groups are significant, too.
    level
        Probability of the intervals.
    key_added
        Key of ``uns``. It has the form of :func:`scanpy.tl.rank_genes_groups`, so that
        ``sc.get.rank_genes_groups_df(adata, group, key=...)``, ``sc.pl.rank_genes_groups`` and tools of enrichment
        read it: groups are named ``"context | perturbation"``, genes in the order of their probability to be called;
        ``scores`` is the predicted change in standard errors, ``pvals`` the local false sign rate, and ``pvals_adj``
        the false discovery rate. :func:`deltavi.get.response_df` reads all columns.

    Raises
    ------
    UnknownCategoryError
        If there is no such context.
    GeneMatchError
        If genes of `adata`, or of a profile, are not among those of `responses`.
    InputDataError
        If nothing is asked for, or a profile is not on the scale.
    DeltaviError
        If a number lies outside its range.

    Examples
    --------
    >>> import deltavi
    >>> cells = deltavi.datasets.simulate_perturbation(n_genes=60, n_cell_types=4, n_batches=1, n_cells_per_group=40)
    >>> table = deltavi.tl.responses(cells, condition_key="condition", control="control", context_keys="cell_type")
    >>> responses = deltavi.perturbation.ResponseModel.fit(table)
    >>> deltavi.tl.differential_response(cells, responses, "stimulated", contexts="type_1")
    >>> found = deltavi.get.response_df(cells, "type_1 | stimulated")
    >>> found.columns[:3].tolist()
    ['group', 'gene', 'change']
    """
    require_anndata(adata)
    if not isinstance(responses, ResponseModel):
        raise DeltaviError(
            f"responses must be a ResponseModel, as ResponseModel.fit returns it, not a {type(responses).__name__}."
        )
    key = str(one_name("key_added", key_added))
    genes = _positions(adata, responses)
    asked = _queries(responses, perturbations, contexts, profiles)
    sizes = n_perturbed, n_control
    learned = {
        new: _recalibration(responses, new=new, alpha=alpha, min_change=min_change)
        for new in dict.fromkeys(query.is_new for query in asked)
    }
    tables: dict[str, pd.DataFrame] = {}
    notes = []
    for query in asked:
        experiment = _experiment(responses, query, sizes, alpha, min_change)
        for row, name in enumerate(query.prediction.perturbations):
            found = _table(query, row, experiment, level, learned[query.is_new])
            group = f"{query.prediction.context}{JOINT}{name}"
            tables[group] = _with_scores(found, query.prediction, row).iloc[genes]
            notes.append(_note(group, query.prediction, row, found))
    adata.uns[key] = _ranked(tables) | {"notes": pd.DataFrame(notes).astype({"group": str, "flags": str})}
    adata.uns[key]["params"] = {
        "method": "predicted response",
        "groupby": JOINT.join(("context", "perturbation")),
        "reference": responses.table.control,
        "use_raw": False,
        "layer": "",
        "corr_method": "false discovery rate of predicted calls",
        "alpha": alpha,
        "min_change": min_change,
        "level": level,
    }


@dataclass(frozen=True, eq=False)
class _Query:
    """A context, the prediction for it, the mean of its control cells, and whether nothing was measured in it."""

    prediction: ResponsePrediction
    control: FloatArray
    is_new: bool


def _positions(adata: AnnData, responses: ResponseModel) -> IntArray:
    """Place of each gene of `adata` among those of `responses`."""
    places = pd.Index(responses.table.genes).get_indexer(pd.Index(adata.var_names.astype(str)))
    missing = adata.var_names[places < 0]
    if len(missing):
        raise GeneMatchError(
            f"{len(missing)} of {adata.n_vars} genes of adata are not among those of responses, such as "
            f"{examples(list(missing))}: measure the responses of the same genes."
        )
    return np.asarray(places)


def _queries(
    responses: ResponseModel,
    perturbations: str | Sequence[str] | None,
    contexts: str | Sequence[str] | None,
    profiles: Mapping[str, ArrayLike] | None,
) -> list[_Query]:
    """Predictions of everything that is asked for."""
    table = responses.table
    wanted = (
        list(dict.fromkeys(table.names))
        if perturbations is None
        else [str(name) for name in names("perturbations", perturbations)]
    )
    if contexts is None:
        known = [] if profiles else list(table.contexts)
    else:
        known = [str(name) for name in names("contexts", contexts)]
    if not wanted or not (known or profiles):
        raise InputDataError("There is nothing to predict: name at least one perturbation and one context or profile.")
    measured = set(table.used_contexts.tolist())
    found = []
    for name in known:
        prediction, place = responses.predict(wanted, context=name), table.position_of(name)
        found.append(_Query(prediction, table.control_means[place], place not in measured))
    for new, given in (profiles or {}).items():
        profile = _profile(str(new), given, table.genes)
        found.append(_Query(responses.predict(wanted, context=str(new), profile=profile), profile, True))
    return found


def _profile(name: str, given: ArrayLike, genes: tuple[str, ...]) -> FloatArray:
    """Profile of a new context in the order of `genes`."""
    if isinstance(given, pd.Series):
        missing = pd.Index(genes).difference(given.index.astype(str))
        if len(missing):
            raise GeneMatchError(
                f"The profile of {name!r} lacks {len(missing)} of {len(genes)} genes: {examples(list(missing))}."
            )
        given = given.set_axis(given.index.astype(str))[list(genes)].to_numpy()
    return np.asarray(given, dtype=np.float64)


def _experiment(
    responses: ResponseModel, query: _Query, sizes: tuple[int | None, int | None], alpha: float, min_change: float
) -> Experiment:
    """Experiment that is meant: of the given sizes, or as large as the control cells of the context."""
    table, context = responses.table, query.prediction.context
    known = context in table.contexts
    n = table.n_control[table.position_of(context)] if known else np.median(table.n_control)
    usual = max(int(n), 2)
    n_perturbed, n_control = (usual if size is None else size for size in sizes)
    return Experiment(n_perturbed, n_control, alpha=alpha, min_change=min_change)


def _table(query: _Query, row: int, experiment: Experiment, level: float, learned: Recalibration | None) -> GeneTable:
    prediction = query.prediction
    plain = gene_table(
        prediction.change[row],
        prediction.variance[row],
        prediction.freedom,
        cell_variance=prediction.cell_variance,
        control_mean=query.control,
        experiment=experiment,
        genes=prediction.genes,
        level=level,
    )
    return plain if learned is None else calibrated(plain, learned)


def _recalibration(responses: ResponseModel, *, new: bool, alpha: float, min_change: float) -> Recalibration | None:
    """Shares called at stated probabilities, from measured pairs predicted from the others; None with too few.

    With `new`, they are predicted without any pair of their contexts.
    """
    table = responses.table
    usable = np.flatnonzero((table.n_perturbed >= 2) & (table.n_control[table.context_of] >= 2))
    if table.n_pairs < 2 or (new and len(table.used_contexts) < 2) or not len(usable):
        return None
    pairs = usable[np.linspace(0, len(usable) - 1, min(len(usable), MOST_PAIRS)).astype(int)]
    genes = np.linspace(0, table.n_genes - 1, min(table.n_genes, MOST_GENES)).astype(int)
    change, variance, freedom = _left_out(responses, pairs, new=new)
    stated, called = [], []
    for row, pair in enumerate(pairs):
        context = table.context_of[pair]
        cells = table.variances[context][genes]
        sizes = int(table.n_perturbed[pair]), int(table.n_control[context])
        experiment = Experiment(*sizes, alpha=alpha, min_change=min_change)
        predicted = gene_table(
            change[row][genes],
            variance[row][genes],
            freedom,
            cell_variance=cells,
            control_mean=np.maximum(table.control_means[context][genes], 0.0),
            experiment=experiment,
        )
        stated.append(predicted.probability_called)
        called.append(called_genes(table.changes[pair][genes], cells, experiment=experiment))
    return recalibration(np.stack(stated), np.stack(called))


def _left_out(responses: ResponseModel, pairs: IntArray, *, new: bool) -> tuple[FloatArray, FloatArray, float]:
    """Change and variance of measured pairs, predicted without them, or without all pairs of their contexts."""
    table, names_of, freedom = responses.table, responses.table.pairs, responses.fitted.calibration.freedom
    if not new:
        change, variance = responses.loo()
        return change[pairs], variance[pairs], freedom
    change, variance = np.zeros((2, len(pairs), table.n_genes))
    for context in np.unique(table.context_of[pairs]):
        rows = np.flatnonzero(table.context_of[pairs] == context)
        process = responses.fitted.process.on(table.of_pairs(table.context_of != context))
        others = ResponseModel(replace(responses.fitted, process=process))
        found = others.predict([names_of[pair][1] for pair in pairs[rows]], context=table.contexts[context])
        change[rows], variance[rows] = found.change, found.variance
    return change, variance, freedom


def _with_scores(found: GeneTable, prediction: ResponsePrediction, row: int) -> pd.DataFrame:
    """All columns of a table, and the predicted change in standard errors."""
    error = np.sqrt(prediction.variance[row])
    score = np.divide(found.change, error, out=np.zeros_like(error), where=error > 0)
    return found.to_frame().assign(score=score)


def _note(group: str, prediction: ResponsePrediction, row: int, found: GeneTable) -> State:
    """Entries beside the table of a group."""
    return {
        "group": group,
        "uncertainty": float(prediction.uncertainty[row]),
        "expected_skill": float(prediction.expected_skills[row]),
        "is_calibrated": found.is_calibrated,
        "flags": ", ".join(prediction.flags[row]),
        "n_perturbed": found.experiment.n_perturbed,
        "n_control": found.experiment.n_control,
    }


# Fields of scanpy's form, and the columns they are.
FIELDS = {
    "scores": "score",
    "logfoldchanges": "log2_fold_change",
    "pvals": "local_false_sign_rate",
    "pvals_adj": "false_discovery_rate",
}


def _ranked(tables: Mapping[str, pd.DataFrame]) -> State:
    """Tables in scanpy's form, and as one with all columns."""
    ordered = {
        group: table.assign(_size=table["score"].abs())
        .sort_values(["probability_called", "_size"], ascending=False, kind="stable")
        .drop(columns="_size")
        for group, table in tables.items()
    }
    held: State = {"names": _records({group: table.index.to_numpy(dtype=str) for group, table in ordered.items()})}
    for field, column in FIELDS.items():
        held[field] = _records({group: table[column].to_numpy() for group, table in ordered.items()})
    rows = [table.rename_axis("gene").reset_index().assign(group=group) for group, table in ordered.items()]
    whole = pd.concat(rows, ignore_index=True)
    whole.index = whole.index.astype(str)
    return held | {"table": whole[["group", *(name for name in whole if name != "group")]]}


def _records(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Columns as one structured array, which scanpy reads by the name of a group."""
    kinds = [(group, values.dtype) for group, values in columns.items()]
    found = np.empty(len(next(iter(columns.values()))), dtype=kinds)
    for group, values in columns.items():
        found[group] = values
    return found
