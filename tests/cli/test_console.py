"""Results go to standard output and all else to standard error; nothing global is changed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deltavi.cli import main
from deltavi.cli._console import Console, Terminated, shown, terminable
from deltavi.errors import DeltaviWarning, LabelWarning
from tests.cli.conftest import QUICK, Run, run

ADVERTISEMENTS = ("GPU available", "TPU available", "litlogger", "Tip", "v_num", "does not have many workers")


@pytest.fixture(scope="module")
def finished(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """One run of the demonstration."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return run("--data", cells, "--holdout", "B", "--out", out, *QUICK), out


def test_results_alone_are_on_standard_output(finished: tuple[Run, Path]) -> None:
    found, out = finished
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert "E-distance" in lines[0]
    written = [line for line in lines if line.startswith("wrote ")]
    assert lines[-5:-1] == written
    assert lines[-1].startswith(("In B ", "No table of genes: "))
    assert written == [f"wrote {out / name}" for name in ("predicted.h5ad", "model", "scores.csv", "figure.png")]
    # ten control cells in each half, of sixty genes, are too few
    assert lines[-6].startswith("No method is ranked: the response is too small")
    assert not [word for word in (*ADVERTISEMENTS, "Epoch", "Training", "\r", "warning") if word in found.out]


def test_standard_error_holds_notes_and_warnings_line_by_line(finished: tuple[Run, Path]) -> None:
    lines = finished[0].err.splitlines()
    assert lines[0] == "120 cells x 60 genes; to hold out: B under stimulated."
    assert all(line.startswith("warning: ") for line in lines[1:])
    assert not [word for word in (*ADVERTISEMENTS, "Epoch", "\r", "\x1b") if word in finished[0].err]


def test_the_demonstration_holds_out_what_it_predicts(finished: tuple[Run, Path]) -> None:
    """It warns neither of treated cells in training nor of a sequencing depth that was left out."""
    assert "trained" not in finished[0].err
    assert "total_counts" not in finished[0].err


def test_a_second_run_replaces_the_first_but_nothing_else(
    finished: tuple[Run, Path], cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished[1]
    (out / "notes.txt").write_text("mine")
    (out / "model" / "notes.txt").write_text("mine")
    before = {file: file.read_bytes() for file in out.rglob("*.csv")}
    found = run("--data", cells, "--holdout", "B", "--out", out, *QUICK, "--quiet")
    assert (found.code, found.err) == (0, "")
    assert found.out == finished[0].out
    assert {file: file.read_bytes() for file in out.rglob("*.csv")} == before
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "model" / "notes.txt").read_text() == "mine"


def state() -> dict[str, Any]:
    """What is global."""
    loggers = ("", "deltavi", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric", "scvi")
    return {
        "levels": {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in loggers},
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "streams": (sys.stdout, sys.stderr),
        "folder": os.getcwd(),
    }


@pytest.mark.parametrize("arguments", [["--holdout", "Mono"], ["--holdout", "nobody"], ["--genes", "0"]])
def test_nothing_global_is_changed(arguments: list[str], cells: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        before = state()
        run("--data", cells, "--out", tmp_path / "out", *QUICK, *arguments)
        assert state() == before
    finally:
        torch.set_num_threads(1)


def said_in(block: Callable[[], None], *, quiet: bool = False) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        console = Console("demo", quiet=quiet)
        with shown(console):
            block()
        console.result("a result")
    return out.getvalue(), err.getvalue()


def speak() -> None:
    for _ in range(2):
        warnings.warn("two\n  lines", LabelWarning, stacklevel=1)
        logging.getLogger("deltavi").warning("logged %d", 1)
    warnings.warn("deprecated by others", FutureWarning, stacklevel=1)
    warnings.warn("by others", UserWarning, stacklevel=1)
    logging.getLogger("deltavi").info("a detail")
    print("printed by others")


def test_warnings_are_one_line_each_and_come_once() -> None:
    out, err = said_in(speak)
    assert out == "a result\n"
    assert err == "warning: two lines\nwarning: logged 1\nprinted by others\n"


def test_quiet_leaves_errors_alone() -> None:
    assert said_in(speak, quiet=True) == ("a result\n", "")
    with contextlib.redirect_stderr(io.StringIO()) as err:
        Console("demo", quiet=True).error("of two\nlines : kept")
    assert err.getvalue() == "deltavi demo: of two lines : kept\n"


def test_warnings_that_are_errors_elsewhere_are_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, err = said_in(lambda: warnings.warn("ours", DeltaviWarning, stacklevel=1))
    assert err == "warning: ours\n"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes as of Unix")
def test_a_reader_who_leaves_does_not_stop_the_work() -> None:
    """Standard output of another process is closed at its other end, or is a full disk."""
    code = (
        "import sys\nfrom deltavi.cli._console import Console\nconsole = Console('demo')\n"
        "for _ in range(3):\n    console.result('a line')\nprint('went on', file=sys.stderr)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == "went on\n"
    assert process.wait() == 0
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0
        assert done.stderr == (
            "warning: Results cannot be printed: No space left on device. They are in the files.\nwent on\n"
        )


@pytest.fixture
def _at_a_keyboard() -> Iterator[None]:
    """A shell starts what runs in its background deaf to interrupts; listen to them all the same."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_at_a_keyboard")
@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_signals_end_the_work_with_a_line(
    number: signal.Signals, code: int, word: str, cells: Path, tmp_path: Path
) -> None:
    """The signal comes while the model trains."""
    out = tmp_path / "out"
    trained = threading.Event()
    train = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *arguments: Any, **others: Any) -> Any:
        if not trained.is_set():
            trained.set()
            os.kill(os.getpid(), number)
        return train(self, *arguments, **others)

    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", step)
        found = run("--data", cells, "--holdout", "B", "--out", out, "--genes", "40", "--epochs", "500")
    assert trained.is_set()
    assert (found.code, found.out) == (code, "")
    assert found.err.splitlines()[-1].startswith(f"deltavi demo: {word}")
    assert "NameError" not in found.err
    assert "Traceback" not in found.err
    assert not out.exists()
    assert signal.getsignal(number) == before


@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
def test_sigterm_is_as_before_outside_the_block() -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with pytest.raises(Terminated), terminable():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_command_runs_in_another_thread(cells: Path, tmp_path: Path) -> None:
    """Only the main thread may listen to signals."""
    codes: list[int] = []
    arguments = ["demo", "--data", str(cells), "--holdout", "nobody", "--out", str(tmp_path / "out")]
    with contextlib.redirect_stderr(io.StringIO()):
        thread = threading.Thread(target=lambda: codes.append(main(arguments)))
        thread.start()
        thread.join()
    assert codes == [2]


def test_a_process_of_its_own(cells: Path, tmp_path: Path) -> None:
    """As from a shell, into files: a traceback, bar or notice would be seen."""
    out = tmp_path / "out"
    arguments = ["demo", "--data", cells, "--holdout", "B", "--out", out, *QUICK]
    done = subprocess.run([sys.executable, "-m", "deltavi", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "E-distance" in done.stdout.splitlines()[0]
    assert "\r" not in done.stdout + done.stderr
    assert not [word for word in (*ADVERTISEMENTS, "Epoch", "Traceback") if word in done.stdout + done.stderr]
    assert (out / "scores.csv").is_file()
