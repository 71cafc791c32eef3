"""Predicted and measured changes of gene means, label by label, as several plots need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from deltavi import _keys
from deltavi._entries import whole_number
from deltavi._errors import DeltaviError, InputDataError, UnknownCategoryError, examples, unknown_category
from deltavi.arrays.matrix import gene_means
from deltavi.perturbation.estimators import ALL_CELLS, label_of
from deltavi.pl._expression import AlignedExpression, align_expression, positions_of
from deltavi.registry.tables import in_memory

RankBy: TypeAlias = Literal["predicted", "real"]
RANKS = ("predicted", "real")


@dataclass(frozen=True, eq=False)
class Responses:
    """Changes of the mean of every gene (rows) in every label (columns), log1p CP10k.

    Attributes
    ----------
    predicted
        Predicted changes.
    real
        Measured changes, with the same rows and columns, NaN in labels that were not measured; None without real cells.
    lower, upper
        90 % interval of the changes; None where the prediction has none.
    """

    predicted: pd.DataFrame
    real: pd.DataFrame | None
    lower: pd.DataFrame | None
    upper: pd.DataFrame | None

    def of_labels(self, labels: Sequence[str]) -> Responses:
        """Those of some labels, in their order."""
        known = list(self.predicted.columns)
        for label in labels:
            if label not in known:
                raise unknown_category("label", label, known, among="the prediction")
        if not labels:
            raise DeltaviError("labels is empty; name at least one label, or pass None for all.")
        return self._each(lambda table: table[list(dict.fromkeys(labels))])

    def of_genes(self, genes: str | Sequence[str] | None, n_genes: int, rank_by: RankBy) -> Responses:
        """Those of the genes named, or of the `n_genes` that change most; from the largest rise to the largest fall."""
        if genes is not None:
            chosen = positions_of(self.predicted.index, genes)
            return self._each(lambda table: table.iloc[chosen])
        n_genes = whole_number("n_genes", n_genes, least=1)
        ranks = self._ranked(rank_by)
        most = ranks.abs().max(axis=1).sort_values(ascending=False, kind="stable").index[:n_genes]
        order = ranks.loc[most].mean(axis=1).sort_values(ascending=False, kind="stable").index
        return self._each(lambda table: table.loc[order])

    def _ranked(self, rank_by: RankBy) -> pd.DataFrame:
        if not isinstance(rank_by, str) or rank_by not in RANKS:
            raise unknown_category("rank_by", rank_by, RANKS, among="the choices")
        if rank_by == "predicted":
            return self.predicted
        if self.real is None or self.real.isna().all(axis=None):
            raise DeltaviError("rank_by='real' needs real cells of the labels drawn.")
        return self.real

    def _each(self, choose: Callable[[pd.DataFrame], pd.DataFrame]) -> Responses:
        real, lower, upper = (None if t is None else choose(t) for t in (self.real, self.lower, self.upper))
        return Responses(choose(self.predicted), real, lower, upper)


def responses(
    predicted: AnnData, real: AnnData | None, control: AnnData | None, *, labels_key: str | None
) -> Responses:
    """Changes from cells, or where there are no control cells those that the prediction holds.

    Parameters
    ----------
    predicted
        Predicted cells.
    real
        Real cells of the perturbed condition.
    control
        Real cells of the control condition. Without them the change is that in varm ``"deltavi_change"``, and the
        control mean that of the predicted cells less the change.
    labels_key
        obs column with the labels; None takes all cells for those of one label.

    Raises
    ------
    GeneMatchError, InputDataError, UnknownCategoryError, DeltaviError
        As the plots document.
    """
    given = {"predicted": predicted, "real": real, "control": control}
    for name, cells in given.items():
        if not isinstance(cells, AnnData) and (cells is not None or name == "predicted"):
            raise InputDataError(f"{name} must be an AnnData, not a {type(cells).__name__}.")
    predicted = in_memory(predicted, name="predicted")
    real, control = (None if cells is None else in_memory(cells) for cells in (real, control))
    given = {"predicted": predicted, "real": real, "control": control}
    aligned = align_expression(given)
    genes = aligned.genes
    assert genes is not None
    held = {name: _held(predicted, key, genes) for name, key in _HELD.items()}
    only = _only_label(held["predicted"], control, needed=labels_key is None and real is not None)
    means = {name: _means(aligned, name, _labels(given, name, labels_key, only)) for name in aligned.matrices}
    change, before = _change(held["predicted"], means)
    measured = None if real is None else _measured(means["real"], before, change.columns)
    lower, upper = (None if held[name] is None else held[name] for name in ("lower", "upper"))
    return Responses(change, measured, lower, upper)


_HELD = {"predicted": _keys.VARM_CHANGE, "lower": _keys.VARM_LOWER, "upper": _keys.VARM_UPPER}


def _held(predicted: AnnData, key: str, genes: pd.Index) -> pd.DataFrame | None:
    """A table of the prediction, with the names that its columns stand for; None where it has none."""
    if key not in predicted.varm:
        return None
    table = pd.DataFrame(predicted.varm[key]).set_axis(predicted.var_names, axis=0).loc[genes]
    return table.rename(columns=label_of)


def _only_label(change: pd.DataFrame | None, control: AnnData | None, *, needed: bool) -> str:
    """The label of cells that come without any."""
    if change is not None and change.shape[1] == 1:
        return str(change.columns[0])
    if needed and control is None and change is not None:
        raise DeltaviError(
            f"The prediction is of {change.shape[1]} labels ({examples(change.columns)}): pass labels_key, the obs "
            "column that tells of which label the real cells are."
        )
    return ALL_CELLS


def _labels(given: Mapping[str, AnnData | None], name: str, key: str | None, only: str) -> NDArray[np.object_]:
    """Label of each cell, ``(n_cells,)``."""
    cells = given[name]
    assert cells is not None
    if key is None:
        return np.full(cells.n_obs, only, dtype=object)
    if key not in cells.obs:
        raise unknown_category("labels_key", key, cells.obs.columns, among=f"the obs of {name}")
    missing = int(cells.obs[key].isna().sum())
    if missing:
        raise InputDataError(f"obs[{key!r}] of {name} is missing for {missing} of {cells.n_obs} cells; leave them out.")
    return np.asarray(cells.obs[key].astype(str), dtype=object)


def _means(cells: AlignedExpression, name: str, labels: NDArray[np.object_]) -> pd.DataFrame:
    """Mean of every gene in every label, in the order in which labels first occur."""
    matrix = cells[name]
    return pd.DataFrame({label: gene_means(matrix[labels == label]) for label in pd.unique(labels)}, index=cells.genes)


def _change(held: pd.DataFrame | None, means: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predicted changes, and the control means that they start from."""
    predicted = means["predicted"]
    if "control" not in means:
        if held is None:
            raise DeltaviError(
                f"predicted has no varm[{_keys.VARM_CHANGE!r}], which predictions of models with labels hold: pass "
                "control=, the control cells that were predicted."
            )
        return held, (predicted - held)[[label for label in held if label in predicted]]
    absent = predicted.columns.difference(means["control"].columns)
    if len(absent):
        raise UnknownCategoryError(f"control holds no cell of {examples(absent)}, of which cells were predicted.")
    before = means["control"][predicted.columns]
    return predicted - before, before


def _measured(real: pd.DataFrame, before: pd.DataFrame, labels: pd.Index) -> pd.DataFrame:
    """Measured changes of all `labels`, NaN where there is no real cell."""
    shared = [label for label in before if label in real]
    if not shared:
        raise UnknownCategoryError(f"real holds no cell of {examples(labels)}, but of {examples(real.columns)}.")
    return (real[shared] - before[shared]).reindex(columns=labels)
