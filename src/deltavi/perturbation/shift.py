"""Shift of cells under a perturbation: one vector from training cells, by one of several estimators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from deltavi._entries import number, shown
from deltavi._errors import DeltaviError, GeneMatchError, InputDataError, nearest
from deltavi._former_names import renamed_value
from deltavi._reading import known_arguments
from deltavi._types import Rows
from deltavi.arrays.matrix import as_matrix, gene_means, gene_variances
from deltavi.arrays.per_cell import by_cell, require_unmasked
from deltavi.arrays.tables import are_counted, cell_names, gene_names, places, text_names
from deltavi.perturbation.estimators import ALL_CELLS, ESTIMATORS, METRICS, Evidence, GroupMeans, Shift
from deltavi.perturbation.inputs import as_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from deltavi.arrays.matrix import Matrix, Vector

__all__ = ["Shift", "estimate_shift", "estimate_shifts"]

VECTOR = "vector"


@known_arguments
def estimate_shift(
    points: Matrix,
    *,
    is_control: ArrayLike,
    is_perturbed: ArrayLike,
    labels: ArrayLike | pd.Series | pd.Categorical | None = None,
    query: Matrix | None = None,
    estimator: str | ArrayLike = "similarity",
    bandwidth: float = 0.2,
    metric: str = "euclidean",
) -> Shift:
    """Estimate the shift from control to perturbed cells that query cells should undergo.

    With m_c(u) and m_p(u) the mean control and perturbed point of label u, and P the labels seen in both conditions:

    - ``paired``: mean over u in P of m_p(u) - m_c(u).
    - ``similarity``: the same, weighted by exp(-(d_u - min d) / (bandwidth * mean d)), normalised, where d_u is the
      squared Euclidean distance between m_c(u) and the mean of `query`.
    - ``nearest``: m_p(u) - m_c(u) of the one u in P whose m_c(u) is closest to the mean of `query` under `metric`.
    - ``gp``: the same, with the weights of ordinary kriging, the crossed Gaussian process of
      :class:`deltavi.perturbation.ResponseModel` for one perturbation, similarity alone and a flat prior on the mean:
      the covariance of responses falls with the squared distance between the control means, its width is the one at
      which the labels of P predict one another best, and a response measured in few cells weighs less. Weights sum to
      one and may be slightly negative; far from all labels they tend to those of the common mean. ``uncertainty`` of
      the result says how far that is.
    - ``global``: mean of all perturbed points minus mean of all control points; labels are ignored.
    - ``scgen``: mean of m_p(u) over labels seen perturbed minus mean of m_c(u) over labels seen in control. It is
      biased where a label is seen in one condition only: with one label h of K held out of the perturbed cells, by
      (mean over u != h of m_c(u) - m_c(h)) / K.
    - ``none``: zero.
    - an array: used as it is.

    All are deterministic and draw no random numbers.

    Parameters
    ----------
    points
        Training positions, (n_cells, n_dims): latent means, principal component scores or expression (log1p CP10k);
        dense, sparse, or a DataFrame or AnnData, by whose cells and dimensions the others are matched. Only means of
        groups of cells are computed, sparse points are not densified.
    is_control, is_perturbed
        Boolean masks over the training cells, (n_cells,); cells in neither are not used. Series are matched by the
        names of their cells, here and in `labels`.
    labels
        Label of every training cell, (n_cells,), compared as strings; cells with a missing one only count in `global`.
    query
        Control cells whose response is wanted, (n_query, n_dims); needed by `similarity`, `gp` and `nearest`.
    estimator
        One of the names above, or the shift itself, (n_dims,).
    bandwidth
        Width of the weights of `similarity`, relative to the mean distance, above 0: towards 0 only the nearest label
        counts, and a large value weights all alike, which is `paired`.
    metric
        Distance of `nearest`: "euclidean" or "correlation" (one minus Pearson's); the other estimators use none or the
        squared Euclidean and refuse another.

    Raises
    ------
    DeltaviError
        The estimator or metric does not exist, labels or query are needed and missing, or no label is seen in both
        conditions.
    InputDataError
        Masks, labels, query or a given vector do not fit the points, a condition has no cells, or values are not
        finite.

    References
    ----------
    Lotfollahi, Wolf and Theis (2019), Nature Methods 16, for `scgen`; the others correct its bias. Cressie (1993),
    Statistics for Spatial Data, ch. 3, for `gp`.
    """
    shifts = estimate_shifts(
        points,
        {ALL_CELLS: query},
        is_control=is_control,
        is_perturbed=is_perturbed,
        labels=labels,
        estimator=estimator,
        bandwidth=bandwidth,
        metric=metric,
    )
    return shifts[ALL_CELLS]


def estimate_shifts(
    points: Matrix,
    queries: Mapping[str, Matrix | None],
    *,
    is_control: ArrayLike,
    is_perturbed: ArrayLike,
    labels: ArrayLike | pd.Series | pd.Categorical | None = None,
    estimator: str | ArrayLike = "similarity",
    bandwidth: float = 0.2,
    metric: str = "euclidean",
    dims: pd.Index | None = None,
) -> dict[str, Shift]:
    """Estimate one shift for each of several queries; the group means that they share are computed once.

    Parameters
    ----------
    queries
        Name -> control cells whose response is wanted, (n_query, n_dims), or None.
    points, is_control, is_perturbed, labels, estimator, bandwidth, metric
        As in `estimate_shift`, which also documents the errors.
    dims
        Names of the dimensions, where `points` does not carry them.
    """
    matrix = as_matrix(points, "points")
    dims = gene_names(points, "points") if dims is None else dims
    if not isinstance(estimator, str):
        return {name: Shift(given_vector(estimator, matrix.shape[1], dims), VECTOR) for name in queries}
    check_options(estimator, metric, bandwidth)
    cells = by_cell(cell_names(points), "points", is_control=is_control, is_perturbed=is_perturbed, labels=labels)
    control, perturbed = _condition_masks(cells["is_control"], cells["is_perturbed"], matrix.shape[0])
    groups = None if labels is None or estimator == "global" else _checked_labels(cells["labels"], matrix.shape[0])
    evidence = Evidence(
        control=_group_means(matrix, control, groups),
        perturbed=_group_means(matrix, perturbed, groups),
        has_labels=groups is not None,
        query=None,
        bandwidth=bandwidth,
        metric=metric,
    )
    means = {
        name: None if query is None else _query_mean(query, matrix.shape[1], dims) for name, query in queries.items()
    }
    return {name: ESTIMATORS[estimator](replace(evidence, query=mean)) for name, mean in means.items()}


def given_vector(values: object, n_dims: int, dims: pd.Index | None = None) -> Vector:
    """A shift of the user's in double precision, (n_dims,).

    Parameters
    ----------
    values
        The numbers; a Series is matched by its index, where that is not the numbers from 0 in order.
    n_dims
        How many there are.
    dims
        Names of the dimensions as text; the numbers from 0 where they have none.

    Raises
    ------
    InputDataError
        It has another shape, or is masked, or not finite.
    GeneMatchError
        It names other dimensions.
    """
    require_unmasked(values, "The shift")
    if isinstance(values, pd.Series) and len(values) == n_dims and not are_counted(names := text_names(values.index)):
        dims = text_names(pd.RangeIndex(n_dims)) if dims is None else dims
        values = values.to_numpy()[places(names, dims, of="The shift", beside="what is moved", what="dimensions")]
    try:
        vector = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputDataError(f"The shift must be an estimator's name or an array of {n_dims} numbers.") from error
    if vector.shape != (n_dims,):
        raise InputDataError(f"The given shift has shape {vector.shape}; the points need ({n_dims},).")
    n_broken = int(np.count_nonzero(~np.isfinite(vector)))
    if n_broken:
        raise InputDataError(f"The given shift holds NaN or infinite values at {n_broken} of {n_dims} positions.")
    return vector


def check_options(estimator: str, metric: str, bandwidth: float) -> None:
    """Raise DeltaviError unless the estimator exists and the options are ones that it can use."""
    if estimator not in ESTIMATORS:
        known = ", ".join(map(repr, ESTIMATORS))
        close = renamed_value(estimator, ESTIMATORS) or nearest(estimator, ESTIMATORS)
        hint = "" if close is None else f" Did you mean {close!r}?"
        raise DeltaviError(f"The shift estimator {estimator!r} does not exist.{hint} Known: {known}, or an array.")
    if not isinstance(metric, str) or metric not in METRICS:
        raise DeltaviError(f"The metric {shown(metric)} does not exist. Known: {', '.join(map(repr, METRICS))}.")
    if metric != "euclidean" and estimator != "nearest":
        raise DeltaviError(f"metric={metric!r} only applies to estimator='nearest', not to {estimator!r}.")
    if not is_positive(bandwidth):
        raise DeltaviError(f"bandwidth must be a finite number above 0, got {bandwidth!r}.")


def is_positive(value: object) -> bool:
    """True if `value` is a finite number above zero."""
    try:
        return number("value", value) > 0
    except DeltaviError:
        return False


def _condition_masks(
    is_control: ArrayLike, is_perturbed: ArrayLike, n_cells: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    control, perturbed = _mask(is_control, n_cells, "is_control"), _mask(is_perturbed, n_cells, "is_perturbed")
    n_both = int(np.count_nonzero(control & perturbed))
    if n_both:
        raise InputDataError(f"{n_both} cells are both control and perturbed; the two conditions must differ.")
    return control, perturbed


def _mask(values: object, n_cells: int, name: str) -> NDArray[np.bool_]:
    mask = np.asarray(values)
    # of a list or nullable values, objects that are True or False
    mask = mask.astype(bool) if mask.dtype == object and infer_dtype(mask, skipna=False) == "boolean" else mask
    if mask.dtype != np.bool_ or mask.shape != (n_cells,):
        raise InputDataError(
            f"{name} must be a boolean mask over the {n_cells} cells of points, got {mask.dtype} of shape {mask.shape}."
        )
    if not mask.any():
        raise InputDataError(f"{name} selects no cell of points, so there is nothing to estimate a shift from.")
    return mask


def _checked_labels(labels: Iterable[object], n_cells: int) -> NDArray[np.object_]:
    names = as_names(labels)
    if names.shape != (n_cells,):
        raise InputDataError(f"labels has shape {names.shape} for {n_cells} cells of points.")
    return names


def _group_means(matrix: Rows, mask: NDArray[np.bool_], groups: NDArray[np.object_] | None) -> GroupMeans:
    """Mean position of every label among the cells of `mask`, or of all of them without labels."""
    if groups is None:
        members = {ALL_CELLS: mask}
    else:
        seen = sorted({name for name in groups[mask] if name is not None})
        members = {name: mask & (groups == name) for name in seen}
    if not members:
        return GroupMeans((), np.empty((0, matrix.shape[1])), ())
    sizes = tuple(int(rows.sum()) for rows in members.values())
    means = np.stack([gene_means(matrix[rows]) for rows in members.values()])
    variances = np.stack([gene_variances(matrix[rows]) for rows in members.values()])
    return GroupMeans.of(tuple(members), means, variances * np.array(sizes)[:, None], sizes)


def _query_mean(query: Matrix, n_dims: int, dims: pd.Index | None) -> Vector:
    matrix, names = as_matrix(query, "query"), gene_names(query, "query")
    if names is not None and dims is not None and not names.equals(dims):
        matrix = matrix[:, places(names, dims, of="query", beside="points", what="dimensions")]
    if matrix.shape[1] != n_dims:
        raise GeneMatchError(f"query has {matrix.shape[1]} dimensions and points {n_dims}; they must be the same.")
    return gene_means(matrix)
