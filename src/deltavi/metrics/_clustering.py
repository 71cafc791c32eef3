"""Agreement of clusters with known labels: pairs of cells, matched clusters, purity on other cells, types found."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from deltavi._entries import seed_number
from deltavi._errors import DeltaviError, examples
from deltavi._reading import known_arguments
from deltavi.arrays.per_cell import by_cell, one_per_cell
from deltavi.arrays.tables import cell_names

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from deltavi.arrays.matrix import Vector


@known_arguments
@dataclass(frozen=True)
class ClusteringScores:
    """Agreement of clusters with labels; see :func:`clustering_scores`.

    Attributes
    ----------
    adjusted_rand
        Adjusted Rand index: agreement about pairs of cells, one at best and zero on average for chance.
    normalised_mutual_information
        Mutual information over the mean of the two entropies, in [0, 1].
    accuracy
        Share of cells whose cluster is the one matched to their label, in [0, 1].
    purity
        Share of cells that have the label which is the most frequent one of their cluster among other cells,
        in [0, 1].
    found
        Best F1 of any single cluster for each label, in [0, 1].
    """

    adjusted_rand: float
    normalised_mutual_information: float
    accuracy: float
    purity: float
    found: dict[Hashable, float]

    def as_dict(self) -> dict[str, float]:
        """Names and values, in the order of the fields; those of `found` are named ``"found <label>"``."""
        scores = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "found"}
        return {**scores, **{f"found {label}": value for label, value in self.found.items()}}


@known_arguments
def clustering_scores(
    labels: Sequence[Hashable] | pd.Series | np.ndarray,
    clusters: Sequence[Hashable] | pd.Series | np.ndarray,
    *,
    fit_on: Sequence[bool] | pd.Series[bool] | NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> ClusteringScores:
    """Compare clusters with known labels; names of clusters have no effect.

    With n_kl the number of cells of cluster k and label l:

    * ``adjusted_rand`` and ``normalised_mutual_information`` are those of scikit-learn;
    * ``accuracy`` is the highest ``sum_k n_k,m(k) / n`` of any one-to-one map m from clusters to labels, so that cells
      of clusters beyond the number of labels are wrong;
    * ``purity`` maps each cluster to its most frequent label in one part of the cells, and is the share of cells of
      the other part for which that is right; a cluster without cells in the first part is wrong, and where m labels
      are equally frequent each counts as 1 / m right;
    * ``found[l]`` is ``max_k 2 n_kl / (n_k + n_l)``.

    Purity misleads where numbers of clusters differ: more clusters are purer. The adjusted Rand index misleads where
    types differ much in size: a rare type has little weight in it, for which see `found`. All of them mislead where the
    labels themselves come from a clustering.

    Parameters
    ----------
    labels
        Label of every cell, (n_cells,): text, numbers or anything hashable.
    clusters
        Cluster of every cell, in the same order; Series are matched by the names of their cells.
    fit_on
        For the purity, the cells that decide the label of a cluster, (n_cells,); the others are scored. By default
        a random half of the cells, then the other half, and the mean of the two.
    seed
        Seed of that random half.

    Raises
    ------
    DeltaviError
        There are fewer than two cells, a label or cluster is missing or not hashable, lengths differ, two Series have
        another index, or `fit_on` is no mask that leaves cells on both sides.

    Notes
    -----
    Each score hides something. The adjusted Rand index counts pairs, so that a label with half of the cells decides it
    and a rare one does not matter. Mutual information grows with the number of clusters, even at random. Accuracy
    punishes a label that is split in two as hard as one that is mixed up; purity forgives every split, and on the
    cells that it was fitted on would be one if each cell were a cluster. Only `found` shows rare labels.

    References
    ----------
    Hubert and Arabie (1985), Comparing partitions, Journal of Classification 2; Kuhn (1955), The Hungarian method for
    the assignment problem, Naval Research Logistics Quarterly 2.
    """
    given_by = by_cell(None, labels=labels, clusters=clusters, fit_on=fit_on)
    cells = next((cell_names(values) for values in (labels, clusters, fit_on) if isinstance(values, pd.Series)), None)
    (truth, names), (given, _) = (_codes(given_by[name], name, cells) for name in ("labels", "clusters"))
    if len(truth) != len(given):
        raise DeltaviError(f"labels has {len(truth)} cells, clusters {len(given)}. Pass one of each for every cell.")
    if len(truth) < 2:
        raise DeltaviError(f"labels and clusters hold {len(truth)} cells. Pass at least two: agreement is about pairs.")
    counts = _contingency(given, truth)
    return ClusteringScores(
        adjusted_rand=float(adjusted_rand_score(truth, given)),
        normalised_mutual_information=float(normalized_mutual_info_score(truth, given)),
        accuracy=float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(truth)),
        purity=_purity(given, truth, given_by["fit_on"], seed_number("seed", seed)),
        found=_found(counts, names),
    )


def _contingency(clusters: NDArray[np.intp], labels: NDArray[np.intp]) -> Vector:
    """Number of cells of every cluster and label, (n_clusters, n_labels)."""
    counts = np.zeros((clusters.max() + 1, labels.max() + 1))
    np.add.at(counts, (clusters, labels), 1.0)
    return counts


def _found(counts: Vector, names: list[Hashable]) -> dict[Hashable, float]:
    """Best F1 of any single cluster for each label, in the order of their text."""
    f1 = 2 * counts / (counts.sum(axis=1, keepdims=True) + counts.sum(axis=0))
    best = dict(zip(names, f1.max(axis=0).tolist(), strict=True))
    return {name: best[name] for name in sorted(names, key=str)}


def _purity(clusters: NDArray[np.intp], labels: NDArray[np.intp], fit_on: object, seed: int) -> float:
    """Purity on the cells that the map was not fitted on; without `fit_on` on either half, fitted on the other."""
    if fit_on is not None:
        return _purity_of_others(clusters, labels, _mask(fit_on, len(labels)))
    half = np.random.default_rng(seed).permutation(len(labels)) < len(labels) // 2
    return float(np.mean([_purity_of_others(clusters, labels, part) for part in (half, ~half)]))


def _purity_of_others(clusters: NDArray[np.intp], labels: NDArray[np.intp], fitted: NDArray[np.bool_]) -> float:
    """Share of the cells that are not `fitted` whose label is the most frequent one of the fitted of their cluster."""
    counts = np.zeros((2, clusters.max() + 1, labels.max() + 1))
    np.add.at(counts, (fitted.astype(int), clusters, labels), 1.0)
    others, known = counts
    # labels that are equally frequent share the cell, so that their order does not matter
    most = (known == known.max(axis=1, keepdims=True)) & (known > 0)
    right = (others * most).sum(axis=1) / np.maximum(most.sum(axis=1), 1)
    return float(right.sum() / others.sum())


def _codes(values: np.ndarray, name: str, cells: pd.Index | None) -> tuple[NDArray[np.intp], list[Hashable]]:
    """Code of every cell, from 0, and the values that the codes stand for."""
    try:
        codes, found = pd.factorize(one_per_cell(values, name))
    except TypeError:  # not hashable
        raise DeltaviError(f"{name} must hold one hashable value per cell, such as text or a number.") from None
    missing = np.flatnonzero(codes < 0)
    if missing.size:
        raise DeltaviError(
            f"{name} is missing for {missing.size} of {len(codes)} cells "
            f"(for example {examples((missing if cells is None else cells[missing]).tolist())}). Leave those cells out."
        )
    return np.asarray(codes, dtype=np.intp), list(found)


def _mask(fit_on: object, n_cells: int) -> NDArray[np.bool_]:
    """`fit_on` as an array with cells on both sides."""
    mask = np.asarray(fit_on)
    if mask.shape != (n_cells,) or infer_dtype(mask, skipna=False) != "boolean":
        raise DeltaviError(
            f"fit_on must hold True or False for each of {n_cells} cells, got shape {mask.shape} of {mask.dtype}."
        )
    mask = mask.astype(bool)
    if mask.all() or not mask.any():
        raise DeltaviError(
            f"fit_on is {bool(mask[0])} for all {n_cells} cells. Choose some of them to fit on and others to judge, or "
            "pass None for two random halves."
        )
    return mask
