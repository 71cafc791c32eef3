"""Metrics of predicted cells, on the log1p CP10k scale: means, changes, distances, spread; of labels and clusters."""

from __future__ import annotations

from deltavi.metrics._calibration import Calibration, calibration
from deltavi.metrics._cells import e_distance, variance_ratio, zero_fraction
from deltavi.metrics._clustering import ClusteringScores, clustering_scores
from deltavi.metrics._genes import principal_axes, top_differential_genes
from deltavi.metrics._means import correlation_of_changes, direction_accuracy, mse_of_means, r2_of_means
from deltavi.metrics._score import PredictionScore, score_prediction

__all__ = [
    "Calibration",
    "ClusteringScores",
    "PredictionScore",
    "calibration",
    "clustering_scores",
    "correlation_of_changes",
    "direction_accuracy",
    "e_distance",
    "mse_of_means",
    "principal_axes",
    "r2_of_means",
    "score_prediction",
    "top_differential_genes",
    "variance_ratio",
    "zero_fraction",
]
