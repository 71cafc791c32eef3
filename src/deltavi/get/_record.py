"""Entries of ``uns`` that a prediction keeps of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from deltavi import _keys
from deltavi._entries import require_anndata
from deltavi._errors import InputDataError
from deltavi._former_names import current_record

# Table of the pairs of a prediction of many perturbations.
PAIRS = "pairs"


def held_by(predicted: AnnData) -> Mapping[str, Any]:
    """Entries of ``uns`` that a prediction keeps of itself."""
    kept = require_anndata(predicted, name="predicted").uns.get(_keys.UNS_PREDICTION)
    held = current_record(kept) if isinstance(kept, Mapping) else {}
    if "control" not in held or not ("perturbation" in held or is_of_many(held)):
        raise InputDataError(
            f"The cells are no prediction: uns[{_keys.UNS_PREDICTION!r}], which predict_perturbation writes and "
            "anndata.concat leaves out, is not there. Read the tables before cells are joined."
        )
    return held


def is_of_many(held: Mapping[str, Any]) -> bool:
    """True of the record of many perturbations."""
    return PAIRS in held
