"""Tools: whole analyses in one call."""

from deltavi.tl._differential import differential_response
from deltavi.tl._evaluate import evaluate_perturbation
from deltavi.tl._evaluation import PerturbationEvaluation
from deltavi.tl._held_out import HeldOut, predict_held_out
from deltavi.tl._methods import Method
from deltavi.tl._responses import responses
from deltavi.tl._splits import Split

__all__ = [
    "HeldOut",
    "Method",
    "PerturbationEvaluation",
    "Split",
    "differential_response",
    "evaluate_perturbation",
    "predict_held_out",
    "responses",
]
