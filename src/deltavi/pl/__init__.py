"""Plots of predictions, comparisons and training; each takes ``ax``, ``show`` and ``save``."""

from deltavi.pl._prediction_umap import prediction_umap
from deltavi.pl._reg_mean import reg_mean
from deltavi.pl._scoreboard import scoreboard
from deltavi.pl._training_history import training_history

__all__ = ["prediction_umap", "reg_mean", "scoreboard", "training_history"]
