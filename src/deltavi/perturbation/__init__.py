"""Shifts, baselines and fair comparisons for predicted perturbation responses."""

from __future__ import annotations

from deltavi.perturbation.baselines import BASELINES, ShiftBaseline, baseline_predictions
from deltavi.perturbation.called import Experiment, called_genes
from deltavi.perturbation.crossed import ResponseModel
from deltavi.perturbation.crossed_interaction import interactions
from deltavi.perturbation.crossed_prediction import FLAGS as RESPONSE_FLAGS
from deltavi.perturbation.crossed_prediction import ResponsePrediction
from deltavi.perturbation.crossed_table import ResponseTable
from deltavi.perturbation.estimators import ESTIMATORS, Evidence, GroupMeans
from deltavi.perturbation.evaluate import SPLIT_HALF, compare, conclusion
from deltavi.perturbation.gene_table import (
    GeneTable,
    Recalibration,
    calibrated,
    expected_false_discoveries,
    gene_table,
    recalibration,
)
from deltavi.perturbation.shift import Shift, estimate_shift

__all__ = [
    "BASELINES",
    "ESTIMATORS",
    "RESPONSE_FLAGS",
    "SPLIT_HALF",
    "Evidence",
    "Experiment",
    "GeneTable",
    "GroupMeans",
    "Recalibration",
    "ResponseModel",
    "ResponsePrediction",
    "ResponseTable",
    "Shift",
    "ShiftBaseline",
    "baseline_predictions",
    "calibrated",
    "called_genes",
    "compare",
    "conclusion",
    "estimate_shift",
    "expected_false_discoveries",
    "gene_table",
    "interactions",
    "recalibration",
]
