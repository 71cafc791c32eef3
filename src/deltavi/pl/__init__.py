"""Plots of predictions, comparisons, training and labels; each takes ``ax``, ``show`` and ``save``."""

from deltavi.pl._calibration import calibration
from deltavi.pl._components import components, responsibilities
from deltavi.pl._confusion import confusion
from deltavi.pl._observed_predicted import observed_predicted
from deltavi.pl._open_set import open_set
from deltavi.pl._prediction_umap import prediction_umap
from deltavi.pl._reg_mean import reg_mean
from deltavi.pl._reg_var import reg_var
from deltavi.pl._response_heatmap import response_heatmap
from deltavi.pl._response_intervals import response_intervals
from deltavi.pl._scoreboard import scoreboard
from deltavi.pl._screen_heatmap import screen_heatmap
from deltavi.pl._shift_weights import shift_weights
from deltavi.pl._training_history import training_history
from deltavi.pl._volcano import ranked_genes, volcano

__all__ = [
    "calibration",
    "components",
    "confusion",
    "observed_predicted",
    "open_set",
    "prediction_umap",
    "ranked_genes",
    "reg_mean",
    "reg_var",
    "response_heatmap",
    "response_intervals",
    "responsibilities",
    "scoreboard",
    "screen_heatmap",
    "shift_weights",
    "training_history",
    "volcano",
]
