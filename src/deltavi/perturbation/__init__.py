"""Shifts, baselines and fair comparisons for predicted perturbation responses."""

from __future__ import annotations

from deltavi.perturbation.baselines import BASELINES, ShiftBaseline, baseline_predictions
from deltavi.perturbation.crossed import ResponseModel
from deltavi.perturbation.crossed_prediction import FLAGS as RESPONSE_FLAGS
from deltavi.perturbation.crossed_prediction import ResponsePrediction
from deltavi.perturbation.crossed_table import ResponseTable
from deltavi.perturbation.estimators import ESTIMATORS, Evidence, GroupMeans
from deltavi.perturbation.evaluate import SPLIT_HALF, compare, conclusion
from deltavi.perturbation.shift import Shift, estimate_shift

__all__ = [
    "BASELINES",
    "ESTIMATORS",
    "RESPONSE_FLAGS",
    "SPLIT_HALF",
    "Evidence",
    "GroupMeans",
    "ResponseModel",
    "ResponsePrediction",
    "ResponseTable",
    "Shift",
    "ShiftBaseline",
    "baseline_predictions",
    "compare",
    "conclusion",
    "estimate_shift",
]
