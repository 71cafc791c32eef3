"""The contract on every model of the package, and on other settings of them; bad input is in ``tests/bad_input``."""

from __future__ import annotations

from deltavi.testing import contract_of
from tests.models import EVERY, VARIANTS

globals().update({f"Test{name}": contract_of(entry, bad_input=False) for name, entry in EVERY.items()})


class TestFactorAnalysis(contract_of(VARIANTS["FactorAnalysis"], bad_input=False)):  # type: ignore[misc]
    # with fewer cells than genes noise may vanish, and the fit does not settle
    test_a_tail_of_one_cell_trains = None
