"""Predictions that need no neural network: add a shift to control cells. The least a model has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._errors import DeltaviError, InputDataError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi._text import as_text, meant
from deltavi._types import Rows
from deltavi.arrays.tables import text_names
from deltavi.perturbation._spaces import GeneSpace, build_space
from deltavi.perturbation.combination import SEPARATOR, check_effect_scale, combined_shift, parts_of
from deltavi.perturbation.estimators import ALL_CELLS, Shift, storable
from deltavi.perturbation.inputs import check_unique_genes, known_names, log_expression, name_column, select
from deltavi.perturbation.shift import estimate_shifts
from deltavi.registry.columns import category_names, require_known
from deltavi.registry.conditions import same_condition
from deltavi.registry.leftovers import require_free_sources
from deltavi.registry.tables import with_subsets

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BASELINES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "no change": ("genes", "none"),
        "mean shift": ("genes", "paired"),
        "nearest shift": ("genes", "nearest"),
        "similarity shift": ("genes", "similarity"),
        "GP shift": ("genes", "gp"),
        "PCA mean shift": ("pca", "paired"),
        "PCA similarity shift": ("pca", "similarity"),
        "PCA nearest shift": ("pca", "nearest"),
    }
)
"""Display name -> (space, shift) of every baseline that `baseline_predictions` runs, in order."""


@known_arguments
class ShiftBaseline:
    """Predict a response by adding one vector to control cells, in gene space or among principal components.

    Parameters
    ----------
    adata
        Training cells of all conditions, log1p CP10k. They are copied; later changes of `adata` have no effect.
    condition_key, labels_key
        Columns of obs with the condition and the label (cell type) of every cell. Cells with a missing label only count
        in `global` shifts; without `labels_key` only `global`, `none` and given shifts are possible.
    layer
        Layer with the expression; X by default.
    space
        "genes" or "pca".
    n_components
        Number of principal components, for "pca" only.

    Raises
    ------
    UnknownCategoryError
        A column or the layer does not exist.
    InputDataError
        The expression is not finite and non-negative, or looks like counts.
    GeneMatchError
        Gene names are not unique.
    """

    def __init__(
        self,
        adata: AnnData,
        *,
        condition_key: str,
        labels_key: str | None = None,
        layer: str | None = None,
        space: str = "genes",
        n_components: int = 50,
    ) -> None:
        adata = with_subsets(adata)
        self.condition_key, self.labels_key, self.layer = condition_key, labels_key, layer
        self._conditions = name_column(adata, condition_key)
        self._labels = None if labels_key is None else name_column(adata, labels_key)
        self._known_labels = np.array([] if self._labels is None else known_names(self._labels), dtype=object)
        check_unique_genes(adata.var_names, "adata")
        self._x = log_expression(adata, layer, "adata").copy()
        self._obs, self._var = adata.obs.copy(), adata.var.copy()
        self._space = build_space(space, self._x, n_components)
        self._points = self._space.points(self._x)

    def predict_perturbation(
        self,
        adata: AnnData | None = None,
        *,
        control: str,
        perturbation: str,
        labels: str | Sequence[str] | None = None,
        shift: str | ArrayLike = "similarity",
        bandwidth: float = 0.2,
        effect_scale: float = 1.0,
        clip: bool = True,
    ) -> AnnData:
        """Predict what the control cells of `adata` look like under the perturbed condition.

        Every label of the query moves by one shift, estimated for the mean of its control cells.

        Parameters
        ----------
        adata
            Query cells, log1p CP10k in the same layer as in training, genes matched by name; the training cells by
            default. Only its control cells are predicted; all of them where it has no condition column.
        control, perturbation
            The two conditions. A perturbation that was not measured may join measured ones, as in ``"A+B"``: their
            shifts are added.
        labels
            Label or labels of the query to predict; all by default. A query without a label column is one group.
        shift
            An estimator of `estimate_shift`, or the shift itself, (n_genes,) or (n_components,); a Series with genes as
            index is matched by name.
        bandwidth
            Width of the weights of the `similarity` shift.
        effect_scale
            Factor of the shift.
        clip
            Set predictions below zero, which no expression can have, to zero.

        Returns
        -------
        Predicted cells: X log1p CP10k, float32, (n_control_cells, n_genes); obs of the input cells with the
        perturbation as condition and the old one in ``deltavi_source_condition``; ``uns["deltavi"]`` records the shift
        and, for every label of the query, its length and the weights of the training labels ("/" in a label becomes
        "%2F" there, since files cannot hold it in a key).

        Raises
        ------
        UnknownCategoryError
            The control, the perturbation or a label is not in the data.
        DeltaviError
            The shift cannot be estimated; see `estimate_shift`.
        GeneMatchError
            The query lacks genes of the training data.
        InputDataError
            The query has cells without label, or its expression is not on the log1p CP10k scale.
        KeyClashError
            The query has a column ``deltavi_source_condition`` that no prediction wrote.
        """
        control, perturbation = self._conditions_of(control, perturbation, given=not isinstance(shift, str))
        obs, var, x = self._query(adata, control)
        groups = self._groups(obs, labels)
        queries = {name: self._space.points(x[rows]) for name, rows in groups.items()}
        effect_scale = check_effect_scale(effect_scale)
        parts = (perturbation,) if not isinstance(shift, str) else self._parts(control, perturbation)
        found = {part: self._shifts(queries, control, part, shift, bandwidth) for part in parts}
        shifts = {name: combined_shift({part: found[part][name] for part in parts}, effect_scale) for name in queries}
        predicted = np.empty(x.shape, dtype=np.float32)
        for name, rows in groups.items():
            moved = self._space.moved(x[rows], shifts[name].vector)
            predicted[rows] = np.clip(moved, 0, None) if clip else moved
        chosen = np.sort(np.concatenate(list(groups.values())))
        result = AnnData(
            predicted[chosen], obs=self._predicted_obs(obs.iloc[chosen], control, perturbation), var=var.copy()
        )
        conditions = {"control": control, "perturbation": perturbation}
        result.uns[_keys.UNS_PREDICTION] = {**conditions, "space": self._space.name, **_record(shifts)}
        return result

    def _conditions_of(self, control: object, perturbation: object, *, given: bool) -> tuple[str, str]:
        """Names of control and perturbation, as the training cells have them."""
        known = known_names(self._conditions)
        names = {"control": meant(control, known), "perturbation": same_condition(perturbation, known)}
        for (kind, name), asked in zip(names.items(), (control, perturbation), strict=True):
            # a given shift may lead to a condition that was not measured, and a perturbation may join several
            joined = kind == "perturbation" and SEPARATOR in as_text(asked)
            if name is None and not given and not joined:
                raise unknown_category(f"{kind} condition", asked, known)
        start, end = names["control"] or as_text(control), names["perturbation"] or as_text(perturbation)
        if start == end:
            raise DeltaviError(f"control and perturbation are both {start!r}; name two conditions.")
        return start, end

    def _parts(self, control: str, perturbation: str) -> tuple[str, ...]:
        return parts_of(perturbation, known_names(self._conditions), control=control, kind="perturbed condition")

    def _query(self, adata: AnnData | None, control: str) -> tuple[pd.DataFrame, pd.DataFrame, Rows]:
        """Metadata of control cells and genes, and their expression, (n_control, n_genes)."""
        adata = None if adata is None else with_subsets(adata)
        asked = self._obs if adata is None else adata.obs
        require_free_sources(asked, known_names(self._conditions), key=self.condition_key)
        if adata is None:
            rows = _control_rows(self._conditions, control)
            return self._obs.iloc[rows], self._var, self._x[rows]
        known = self.condition_key in adata.obs
        names = name_column(adata, self.condition_key, known_names(self._conditions)) if known else None
        rows = np.arange(adata.n_obs) if names is None else _control_rows(names, control)
        cells = select(adata, rows, self._var.index, "adata")
        return adata.obs.iloc[rows], adata.var.loc[self._var.index], log_expression(cells, self.layer, "adata")

    def _groups(self, obs: pd.DataFrame, labels: str | Sequence[str] | None) -> dict[str, NDArray[np.intp]]:
        """Rows of every label to predict; one group of all cells where the query has no label column."""
        if self.labels_key is None or self.labels_key not in obs:
            if labels is not None:
                raise DeltaviError(f"labels={labels!r} needs a label column; labels_key is {self.labels_key!r}.")
            return {ALL_CELLS: np.arange(len(obs))}
        names = category_names(obs[self.labels_key], self._known_labels)
        wanted = _wanted_labels(names, labels, self.labels_key)
        return {name: np.flatnonzero(names == name) for name in wanted}

    def _shifts(
        self, queries: Mapping[str, Rows], control: str, perturbation: str, shift: str | ArrayLike, bandwidth: float
    ) -> dict[str, Shift]:
        """One shift for every query, given by the positions of its control cells."""
        return estimate_shifts(
            self._points,
            queries,
            is_control=self._conditions == control,
            is_perturbed=self._conditions == perturbation,
            labels=self._labels,
            estimator=shift,
            bandwidth=bandwidth,
            metric=self._space.nearest_metric if isinstance(shift, str) and shift == "nearest" else "euclidean",
            dims=text_names(self._var.index) if self._space.name == GeneSpace.name else None,
        )

    def _predicted_obs(self, obs: pd.DataFrame, control: str, perturbation: str) -> pd.DataFrame:
        """The metadata of the moved cells: the perturbation as condition, the old condition beside it."""
        predicted = obs.copy()
        predicted[_keys.OBS_SOURCE_CONDITION] = pd.Categorical([control] * len(obs))
        predicted[self.condition_key] = pd.Categorical([perturbation] * len(obs))
        return predicted


def _control_rows(conditions: NDArray[np.object_], control: str) -> NDArray[np.intp]:
    rows = np.flatnonzero(conditions == control)
    if rows.size == 0:
        raise unknown_category("control condition", control, known_names(conditions))
    return rows


def _wanted_labels(names: NDArray[np.object_], labels: str | Sequence[str] | None, labels_key: str) -> list[str]:
    known = known_names(names)
    if labels is not None:
        given = np.atleast_1d(np.asarray(labels, dtype=object))
        wanted = list(dict.fromkeys(require_known("label of control cells", name, known) for name in given))
        if wanted:
            return wanted
        raise DeltaviError("labels is empty; name at least one label, or pass None for all.")
    missing = np.flatnonzero([name is None for name in names])
    if missing.size:
        raise InputDataError(
            f"{missing.size} control cells have no label in obs[{labels_key!r}] (rows {examples(missing.tolist())} of "
            "the control cells). Label them, remove them, or choose labels."
        )
    return known


def _record(shifts: Mapping[str, Shift]) -> dict[str, object]:
    """Settings of the prediction, as AnnData can store them."""
    return {
        "shift": next(iter(shifts.values())).estimator,
        "length": {storable(name): shift.length for name, shift in shifts.items()},
        "weights": {
            storable(name): {storable(label): weight for label, weight in shift.weights.items()}
            for name, shift in shifts.items()
        },
    }


@known_arguments
def baseline_predictions(
    train: AnnData, query: AnnData, *, condition_key: str, labels_key: str, control: str, perturbation: str
) -> dict[str, AnnData]:
    """Run every baseline of `BASELINES` on the control cells of `query`.

    Parameters
    ----------
    train
        Training cells, log1p CP10k in X, without the perturbed cells that are to be predicted.
    query
        Cells whose response is wanted, log1p CP10k in X; only its control cells are used.
    condition_key, labels_key
        Columns of obs with the condition and the label of every cell.
    control, perturbation
        The two conditions.

    Returns
    -------
    Display name -> predicted cells, in the order of `BASELINES`; see `ShiftBaseline.predict_perturbation` for what
    they hold and which errors are raised.
    """
    spaces = dict.fromkeys(space for space, _ in BASELINES.values())
    fitted = {
        space: ShiftBaseline(train, condition_key=condition_key, labels_key=labels_key, space=space) for space in spaces
    }
    return {
        name: fitted[space].predict_perturbation(query, control=control, perturbation=perturbation, shift=shift)
        for name, (space, shift) in BASELINES.items()
    }
