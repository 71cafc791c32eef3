"""Kinds of bad input that can be put before any model, and what must happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deltavi.testing._bench import Bench
from deltavi.testing._small_model import SmallModel

Check = Callable[[Bench], None]
READS_LOGS = "the values it reads are fractions; counts are what it refuses (row 8)"

_rows: list[SharedRow] = []


@dataclass(frozen=True)
class SharedRow:
    """One bad input, and what any model has to make of it.

    Parameters
    ----------
    number
        Position in the table of all bad inputs.
    given
        Input.
    must
        What has to happen.
    check
        Puts it before a model and asserts the answer.
    without
        Reasons why it does not concern a model, by the scale that this reads.
    """

    number: int
    given: str
    must: str
    check: Check
    without: Mapping[str, str] = field(default_factory=dict)

    def reason_against(self, entry: SmallModel) -> str | None:
        """Reason why it does not concern a model, where there is one."""
        return self.without.get(entry.reads)


def row(number: int, given: str, must: str, *, without: Mapping[str, str] | None = None) -> Callable[[Check], Check]:
    """Put the decorated check into the table."""

    def register(check: Check) -> Check:
        _rows.append(SharedRow(number, given, must, check, without or {}))
        return check

    return register


def shared_rows() -> list[SharedRow]:
    """Every row that any model can be given, in order."""
    # imported here, as they import the decorator
    from deltavi.testing import _bad_genes, _bad_values

    assert all((_bad_genes, _bad_values))
    return sorted(_rows, key=lambda row: row.number)
