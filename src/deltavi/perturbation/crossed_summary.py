"""Responses of a screen at one glance: a row for each pair of a context and a perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from deltavi.perturbation.crossed_prediction import ResponsePrediction
    from deltavi.perturbation.crossed_table import ResponseTable


def summary_of(table: ResponseTable, prediction: ResponsePrediction) -> pd.DataFrame:
    """Size and certainty of each predicted pair of one context, with the columns of `ResponseModel.summary`.

    Parameters
    ----------
    table
        What was measured.
    prediction
        Of one context.
    """
    found = [table.parts_of(name) for name in prediction.perturbations]
    cells = [0 if unknown else table.n_cells(prediction.context, parts) for parts, unknown in found]
    return pd.DataFrame(
        {
            "context": prediction.context,
            "perturbation": list(prediction.perturbations),
            "n_cells": cells,
            "size": np.sqrt((prediction.change**2).sum(1)),
            "error": np.sqrt(prediction.variance.sum(1)),
            "uncertainty": prediction.uncertainty,
            "expected_skill": prediction.expected_skills,
            "flags": [", ".join(flags) for flags in prediction.flags],
        }
    )
