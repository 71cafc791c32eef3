"""The rows: what may be handed over by mistake or go wrong, what must happen, and to which models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deltavi.testing._bad_input import SharedRow, shared_rows
from tests.bad_input.bench import CASES, Bench
from tests.models import names_of

LAST_ROW = 97
Check = Callable[[Bench], None]

_rows: dict[int, Row] = {}


@dataclass(frozen=True)
class Row:
    """One bad input or fault.

    Parameters
    ----------
    number
        Position in the table, from 1.
    given
        What is handed over, or goes wrong.
    must
        What has to happen.
    check
        Puts it before a model and asserts the answer.
    without
        Models that it does not concern, with the reason.
    """

    number: int
    given: str
    must: str
    check: Check
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Models that it concerns, in the order of the cases."""
        return [name for name in CASES if name not in self.without]


def row(number: int, given: str, must: str, *, without: Mapping[str, str] | None = None) -> Callable[[Check], Check]:
    """Put the decorated check into the table."""

    def register(check: Check) -> Check:
        assert number not in _rows, f"row {number} is there already"
        _rows[number] = Row(number, given, must, check, without or {})
        return check

    return register


def all_rows() -> list[Row]:
    """Every row, in order."""
    # imported here, as they import the decorator
    from tests.bad_input import asked, batches, cells, faults, files, kept, labels, odds, storage, values

    assert all((asked, batches, cells, faults, files, kept, labels, odds, storage, values))
    rows = [*_rows.values(), *(_of_package(one) for one in shared_rows())]
    return sorted(rows, key=lambda row: row.number)


def _of_package(shared: SharedRow) -> Row:
    """A row that any model can be given, on the models of the package."""
    reasons = {name: shared.reason_against(case.entry) for name, case in CASES.items()}
    without = {name: reason for name, reason in reasons.items() if reason is not None}
    return Row(shared.number, shared.given, shared.must, shared.check, without)


# -- reasons that several rows share ---------------------------------------------------------------------------

ONE_OF_GROUPS = "its labels only name groups of cells: every cell needs one, and none is predicted"
NO_LABELS = dict.fromkeys(names_of(annotates=False), ONE_OF_GROUPS)
NO_BATCHES = dict.fromkeys(names_of(has_batches=False), "it knows no batches")
NO_EPOCHS = dict.fromkeys(names_of(by_epochs=False), "it is fitted in closed form, without epochs")
ONLY_MIXTURES = dict.fromkeys(names_of(clusters=False), "it has no components")
