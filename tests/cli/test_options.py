"""Options that make no sense are refused in one line, before anything is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import deltavi
from deltavi.cli import build_parser, main
from tests.cli.conftest import Run, is_refused


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> Run:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return Run(code, captured.out, captured.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["deltavi demo", "--help"]),
        (["dmeo"], ["dmeo"]),
        (["demo", "--hold-out", "B"], ["'--hold-out'", "Did you mean --holdout?"]),
        (["demo", "--label", "B"], ["'--label'", "--labels-key"]),
        (["demo", "--epoch=3"], ["Did you mean --epochs?"]),
        (["demo", "--zzz"], ["--zzz", "--help"]),
        (["demo", "cells.h5ad"], ["cells.h5ad"]),
        (["demo", "--data"], ["--data"]),
        (["demo", "--data", ""], ["--data", "path"]),
        (["demo", "--data", "a\0b"], ["--data", "path"]),
        (["demo", "--out", "~nobody-of-this-name/out"], ["unknown user"]),
        (["demo", "--genes", "0"], ["--genes", "at least 1", "'0'"]),
        (["demo", "--genes", "2.5"], ["--genes"]),
        (["demo", "--epochs", "0"], ["--epochs", "from 1 to 1000000"]),
        (["demo", "--epochs", "-3"], ["--epochs", "-3"]),
        (["demo", "--epochs", "9" * 400], ["--epochs"]),
        (["demo", "--epochs", "many"], ["--epochs", "many"]),
        (["demo", "--seed", "-1"], ["--seed"]),
        (["demo", "--seed", str(2**32)], ["--seed", str(2**32 - 1)]),
        (["demo", "--threads", "100000"], ["--threads"]),
        (["demo", "--all", "--jobs", "0"], ["--jobs"]),
        (["demo", "--all", "--holdout", "B"], ["--all", "leave out --holdout B"]),
        (["demo", "--all", "--holdout", ""], ["--all"]),
        (["demo", "--jobs", "2"], ["--jobs", "add --all"]),
        (["demo", "--all", "--threads", "2"], ["--threads", "--jobs"]),
        (["demo", "--obs", "table.csv"], ["--obs", "--data"]),
    ],
)
def test_wrong_options(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_refused(refusal(capsys, *arguments), *words)
    assert not list(tmp_path.iterdir())


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    options = build_parser().parse_args(["demo", "--data", "~/cells.h5ad", "--out", "~/out"])
    assert (options.data, options.out) == (tmp_path / "cells.h5ad", tmp_path / "out")


@pytest.mark.parametrize("module", ["deltavi", "deltavi.cli"])
def test_version_and_help_as_a_module_need_no_libraries(module: str) -> None:
    """They are printed at once, on standard output."""
    code = (
        f"import runpy, sys; sys.argv = ['deltavi', *sys.argv[1:]]\n"
        f"try:\n    runpy.run_module({module!r}, run_name='__main__')\n"
        "finally:\n    print(*{'torch', 'scvi', 'anndata'} & set(sys.modules), file=sys.stderr)\n"
    )
    for option, text in (("--version", f"deltavi {deltavi.__version__}\n"), ("--help", "exit codes: 0")):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert text in done.stdout
        assert done.stderr.strip() == ""


def test_help_says_how_commands_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 it worked" in said
    assert "2 wrong input" in said
    assert "130 interrupted" in said
    assert "143 terminated" in said
