"""Annotation: pure functions from a classifier's outputs to probabilities and to the detection of novel cell types."""

from deltavi.annotation._calibration import Calibration, ClassifiedCells
from deltavi.annotation._gene_filter import informative_genes
from deltavi.annotation._merging import merged_components
from deltavi.annotation._open_set import OpenSetScorer
from deltavi.annotation._temperature import TemperaturePrior, fit_temperature, softmax
from deltavi.annotation.conformal import conformal_p_values

__all__ = [
    "Calibration",
    "ClassifiedCells",
    "OpenSetScorer",
    "TemperaturePrior",
    "conformal_p_values",
    "fit_temperature",
    "informative_genes",
    "merged_components",
    "softmax",
]
