"""Memory that was freed goes back to the system, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deltavi import _memory
from deltavi._memory import Growth, resident, return_freed

FRAGMENTED = """
import numpy as np
from pathlib import Path
from deltavi._memory import return_freed

def resident() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

# the C library keeps arrays of this size for later once one of them was freed
np.ones(3 * 2**20)
large, small = [], []
for _ in range(20):
    large.append(np.ones(2**20))
    small.append(np.ones(2000))
del large
before = resident()
return_freed()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only the GNU C library has the call")
def test_freed_arrays_between_others_leave_the_process() -> None:
    if _memory._trim() is None:
        pytest.skip("another C library")
    done = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True, timeout=120)
    # twenty arrays of 8 MiB
    assert float(done.stdout) > 100


def test_nothing_happens_where_the_library_has_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    _memory._trim.cache_clear()
    try:
        assert _memory._trim() is None
        return_freed()
    finally:
        _memory._trim.cache_clear()


class Sizes:
    """Resident memory as it is told, one number after the other, and how often it was returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *sizes: int | None) -> None:
        self.n_returned, told = 0, iter(sizes)
        monkeypatch.setattr(_memory, "resident", lambda: next(told))
        monkeypatch.setattr(_memory, "return_freed", self.returned)

    def returned(self) -> None:
        """Count."""
        self.n_returned += 1


def test_memory_is_returned_only_where_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    # the first time (500, 300 afterwards), not at 340 or down to 250, at 360 (310 afterwards), not at 400
    sizes = Sizes(monkeypatch, 500, 300, 340, 250, 360, 310, 400)
    growth = Growth(100)
    found = []
    for _ in range(5):
        growth.bound()
        found.append(sizes.n_returned)
    assert found == [1, 1, 1, 2, 2]


def test_memory_is_returned_each_time_where_its_size_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(monkeypatch, None, None)
    growth = Growth(100)
    growth.bound()
    growth.bound()
    assert sizes.n_returned == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_the_size_of_the_process_is_what_the_system_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = resident()
    held = np.ones(4 * 2**20)
    after = resident()
    assert before is not None
    assert after is not None
    assert held.nbytes * 0.9 < after - before < held.nbytes * 2
    monkeypatch.setattr(_memory, "STATM", tmp_path / "nothing")
    assert resident() is None
