"""Cases of the package's own models; what is put before them is in :mod:`deltavi.testing`."""

from __future__ import annotations

from deltavi.testing._bench import (
    N_CELLS,
    N_GENES,
    Bench,
    Case,
    assert_names,
    assert_same,
    refused,
    silent_about,
    untouched,
    warned,
)
from deltavi.testing._small_model import PERTURBATION
from tests.models import MODELS

__all__ = ["CASES", "N_CELLS", "N_GENES", "PERTURBATION", "Bench", "Case", "assert_names", "assert_same", "refused"]
__all__ += ["silent_about", "untouched", "warned"]

CASES = {name: Case(entry) for name, entry in MODELS.items()}
