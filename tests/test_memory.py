"""Memory that was freed goes back to the system, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deltavi import _memory
from deltavi._memory import return_freed

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
