"""SIGTERM while files are written leaves nothing that was begun, and ends the program with the status of a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deltavi.errors import Terminated
from deltavi.io import BlockFile, write_file, write_store
from deltavi.io._folder import write_parts
from deltavi.io._watched import WatchedFile

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals of this kind")
FORMER = "what was there before"


def terminate(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def cells(part: Path, then: Callable[[], object] = terminate) -> None:
    """Write an answer in two blocks of cells, something happening in between."""
    rows, names = np.ones((600, 4), dtype=np.float32), [f"c{i}" for i in range(1200)]
    with BlockFile(part, 1200) as file:
        file.add_rows(rows, {})
        then()
        file.add_rows(rows, {})
        file.finish(obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list("abcd")), uns={})


def text(path: Path) -> None:
    write_file(path, lambda part: (part.write_text("new"), terminate()))


def model(path: Path) -> None:
    write_parts(path, {"a.txt": b"new", "b.txt": terminate})


WRITERS: dict[str, Callable[[Path], None]] = {
    "answer.h5ad": lambda path: write_store(path, cells),
    "answer.zarr": lambda path: write_store(path, cells),
    "table.csv": text,
    "model": model,
}


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_that_was_begun_is_left(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Terminated, match=f"SIGTERM ended the writing of .*{name}. What") as caught:
        WRITERS[name](tmp_path / name)
    assert caught.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert "What was there before is unchanged" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("name", ["answer.h5ad", "table.csv"])
def test_what_was_there_before_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMER)
    with pytest.raises(Terminated):
        WRITERS[name](tmp_path / name)
    assert [place.read_text() for place in tmp_path.iterdir()] == [FORMER]


def test_a_signal_inside_of_hdf5_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 calls the file that it writes to, and makes other errors of those of that file, or none."""
    taken, count = WatchedFile._taken, iter(range(10**6))

    def disturbed(self: WatchedFile, data: memoryview) -> int:
        if next(count) == 2:
            terminate()
        return taken(self, data)

    monkeypatch.setattr(WatchedFile, "_taken", disturbed)
    with pytest.raises(Terminated):
        write_store(tmp_path / "answer.h5ad", lambda part: cells(part, lambda: None))
    assert next(count) > 2
    assert list(tmp_path.iterdir()) == []


def test_a_handler_of_the_user_and_other_threads_are_left_alone(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        text(tmp_path / "table.csv")
        thread = threading.Thread(target=text, args=[tmp_path / "other.csv"])
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] * 2
    assert {place.name for place in tmp_path.iterdir()} == {"table.csv", "other.csv"}


def test_an_error_before_the_signal_stays_what_it_is(tmp_path: Path) -> None:
    def fail(part: Path) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_store(tmp_path / "answer.h5ad", fail)


PROGRAM = """
import sys
from pathlib import Path
from tests.io.test_terminated import WRITERS
try:
    WRITERS["answer.h5ad"](Path(sys.argv[1]))
finally:
    print("in order")
"""


def test_the_program_ends_with_the_status_of_a_shell(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "answer.h5ad")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
    )
    assert found.returncode == 143
    assert found.stdout == "in order\n"
    assert "answer.h5ad. What was there before is unchanged" in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []
