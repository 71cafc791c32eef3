"""Conformal p-values: rank of a cell's score among held-out cells of known type, with a guarantee."""

from __future__ import annotations

import math

import numpy as np

from deltavi._errors import DeltaviError

# A group with fewer held-out cells cannot give p-values below 0.05.
MIN_GROUP = 20
# Scores that differ by less, relative to their size, are the same: single precision, summed in another order.
ROUNDING = 1e-5


def conformal_p_values(
    scores: np.ndarray,
    calibration_scores: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    calibration_groups: np.ndarray | None = None,
    min_group: int = MIN_GROUP,
) -> np.ndarray:
    """Share of calibration cells that are at least as strange, the cell itself counted in.

    p = (1 + #{calibration score >= score}) / (n + 1), where scores that differ by rounding are equal. For a cell
    exchangeable with the `n` calibration cells P(p <= a) <= a, for any score and distribution (Vovk,
    Gammerman and Shafer 2005). With groups the same holds within each group that has enough calibration cells. The
    smaller groups together make one more group; where even that is too small, its cells are compared with all
    calibration cells, which may reject a few more of them.

    Parameters
    ----------
    scores
        ``(n_cells,)``, higher for stranger cells.
    calibration_scores
        ``(n_calibration,)`` of held-out cells of known type.
    groups, calibration_groups
        Group of each cell, such as the predicted label; determined in the same way for both.
    min_group
        Calibration cells that a group needs to be tested by itself.

    Returns
    -------
    ``(n_cells,)`` in (0, 1]; 1 throughout where there is no calibration cell.

    Raises
    ------
    DeltaviError
        If a score is NaN, or groups are given for one side only or in the wrong number.
    """
    scores, calibration_scores = np.asarray(scores, dtype=float), np.asarray(calibration_scores, dtype=float)
    if np.isnan(scores).any() or np.isnan(calibration_scores).any():
        raise DeltaviError("A novelty score is NaN: cells that cannot be scored have no p-value.")
    p_values = _rank_share(scores, calibration_scores)
    if groups is None and calibration_groups is None:
        return p_values
    groups, calibration_groups = _checked(groups, scores), _checked(calibration_groups, calibration_scores)
    names, sizes = np.unique(calibration_groups, return_counts=True)
    large = names[sizes >= min_group]
    for group in large:
        members = groups == group
        p_values[members] = _rank_share(scores[members], calibration_scores[calibration_groups == group])
    small, calibration_small = ~np.isin(groups, large), ~np.isin(calibration_groups, large)
    if calibration_small.sum() >= min_group:
        p_values[small] = _rank_share(scores[small], calibration_scores[calibration_small])
    return p_values


def cells_needed(share: float) -> int:
    """Calibration cells without which no p-value is as small as `share`."""
    # 1 / (1 / 49) is a little more than 49 in floating point
    return math.ceil(1 / share - 1e-9) - 1


def _rank_share(scores: np.ndarray, calibration_scores: np.ndarray) -> np.ndarray:
    n = len(calibration_scores)
    # a held-out cell that is tested again is compared with its own score
    n_below = np.searchsorted(np.sort(calibration_scores), scores * (1 - ROUNDING * np.sign(scores)), side="left")
    share: np.ndarray = (1 + n - n_below) / (n + 1)
    return share


def _checked(groups: np.ndarray | None, scores: np.ndarray) -> np.ndarray:
    if groups is None or np.shape(groups) != scores.shape:
        raise DeltaviError(f"groups and calibration_groups need an entry for each of the {len(scores)} scores.")
    return np.asarray(groups)
