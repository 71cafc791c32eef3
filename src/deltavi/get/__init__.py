"""Tidy tables of the results that a prediction keeps in ``uns`` and ``varm``."""

from deltavi.get._many import prediction, predictions
from deltavi.get._prediction import changes, provenance, treated, uncertainty, weights
from deltavi.get._provenance import Provenance
from deltavi.get._responses import response_df, response_notes

__all__ = [
    "Provenance",
    "changes",
    "prediction",
    "predictions",
    "provenance",
    "response_df",
    "response_notes",
    "treated",
    "uncertainty",
    "weights",
]
