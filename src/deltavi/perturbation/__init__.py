"""Shifts, baselines and fair comparisons for predicted perturbation responses."""

from __future__ import annotations

from deltavi.perturbation.baselines import BASELINES, ShiftBaseline, baseline_predictions
from deltavi.perturbation.estimators import ESTIMATORS, Evidence, GroupMeans
from deltavi.perturbation.evaluate import SPLIT_HALF, compare, conclusion
from deltavi.perturbation.shift import Shift, estimate_shift

__all__ = [
    "BASELINES",
    "ESTIMATORS",
    "SPLIT_HALF",
    "Evidence",
    "GroupMeans",
    "Shift",
    "ShiftBaseline",
    "baseline_predictions",
    "compare",
    "conclusion",
    "estimate_shift",
]
