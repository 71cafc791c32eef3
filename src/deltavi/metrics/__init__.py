"""Metrics of predicted cells, on the log1p CP10k scale: means, changes, distances, spread; of labels and clusters."""

from __future__ import annotations

from deltavi.metrics._calibration import Calibration, calibration
from deltavi.metrics._cells import e_distance, energy_distance, variance_ratio, zero_fraction
from deltavi.metrics._clustering import ClusteringScores, clustering_scores
from deltavi.metrics._differential import (
    DifferentialOverlap,
    deg_overlap,
    differential_genes,
    differential_overlap,
)
from deltavi.metrics._discrimination import perturbation_discrimination
from deltavi.metrics._explained import SquaredError, explained, squared_error
from deltavi.metrics._mmd import mmd
from deltavi.metrics._score import PredictionScore, score_prediction
from deltavi.metrics._variances import r2_of_variances
from deltavi.metrics.genes import principal_axes, top_differential_genes
from deltavi.metrics.means import (
    direction_accuracy,
    mse_delta,
    mse_of_means,
    pearson_delta,
    r2_of_means,
)
from deltavi.metrics.signals import signal_z

__all__ = [
    "Calibration",
    "ClusteringScores",
    "DifferentialOverlap",
    "PredictionScore",
    "SquaredError",
    "calibration",
    "clustering_scores",
    "deg_overlap",
    "differential_genes",
    "differential_overlap",
    "direction_accuracy",
    "e_distance",
    "energy_distance",
    "explained",
    "mmd",
    "mse_delta",
    "mse_of_means",
    "pearson_delta",
    "perturbation_discrimination",
    "principal_axes",
    "r2_of_means",
    "r2_of_variances",
    "score_prediction",
    "signal_z",
    "squared_error",
    "top_differential_genes",
    "variance_ratio",
    "zero_fraction",
]
