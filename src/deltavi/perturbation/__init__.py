"""Shifts, baselines and fair comparisons for predicted perturbation responses."""

from __future__ import annotations

from deltavi.perturbation.baselines import BASELINES, ShiftBaseline, baseline_predictions
from deltavi.perturbation.estimators import ESTIMATORS, Evidence, GroupMeans
from deltavi.perturbation.evaluate import CEILING, compare, verdict
from deltavi.perturbation.shift import Shift, estimate_shift

__all__ = [
    "BASELINES",
    "CEILING",
    "ESTIMATORS",
    "Evidence",
    "GroupMeans",
    "Shift",
    "ShiftBaseline",
    "baseline_predictions",
    "compare",
    "estimate_shift",
    "verdict",
]
