"""The command line of the benchmarks, and every command that a page or a docstring quotes."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from benchmarks.__main__ import STUDIES, THREADS, main
from benchmarks.harness.command import add_names, chosen, command, parsed, parser

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"python -m benchmarks ([a-z][^`\n]*)")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/benchmarks/*.csv")]
SOURCES = list(ROOT.glob("benchmarks/**/*.py"))


def quoted(files: list[Path], indent: str = "") -> set[str]:
    lines = [line for file in files for line in file.read_text().splitlines()]
    texts = [line for line in lines if line.startswith(indent)]
    found = {match for text in texts for match in COMMAND.findall(text)}
    # a field of a table ends its command with a quote or a comma
    return {re.split(r'"?,(?:deltavi|$)', one)[0].rstrip('"') for one in found}


class ParsedError(Exception):
    """The end of a command that was only to be read."""


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **more: Any) -> NoReturn:
        original(self, *args, **more)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.usefixtures("only_parsed")
@pytest.mark.parametrize("text", sorted(quoted(PAGES) | quoted(SOURCES, "    python ")))
def test_a_quoted_command_is_understood(text: str) -> None:
    with pytest.raises(ParsedError):
        main(shlex.split(text))


@pytest.mark.usefixtures("only_parsed")
@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_a_smallest_form(study: str) -> None:
    with pytest.raises(ParsedError):
        main([study, "--quick"])


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/benchmarks/*.md")), ids=lambda page: page.stem)
def test_a_page_names_the_command_that_writes_it(page: Path) -> None:
    text = page.read_text()
    if "Settled, and not made again" in text or page.stem == "index":
        return
    commands = COMMAND.findall(text)
    assert commands
    for one in commands:
        assert one.endswith(f"--write docs/benchmarks/{page.name}")


def test_an_unknown_study_is_told_which_there_are() -> None:
    with pytest.raises(SystemExit, match="perturbation-pairs"):
        main(["perturbations"])


def test_threads_are_pinned_before_a_study_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def probe(study: str, arguments: list[str]) -> None:
        seen.update(study=study, arguments=arguments, threads=[os.environ.get(name) for name in THREADS])

    monkeypatch.setattr(os, "environ", {"MKL_NUM_THREADS": "2"})
    monkeypatch.setitem(STUDIES, "probe", "probe")
    monkeypatch.setitem(sys.modules, "benchmarks.probe", SimpleNamespace(main=probe))
    main(["probe", "--seeds", "3"])
    assert seen == {"study": "probe", "arguments": ["--seeds", "3"], "threads": ["1", "2", "1", "1"]}


def of(arguments: list[str]) -> argparse.Namespace:
    made = parser("probe", None)
    add_names(made, "--tasks", ["a", "b", "c"])
    made.add_argument("--seeds", type=int, default=5)
    return parsed(made, arguments, {"seeds": 1, "tasks": ["c"]})


def test_names_are_all_by_default_and_few_when_quick() -> None:
    assert of([]).tasks == ["a", "b", "c"]
    assert of(["--tasks", "b,a"]).tasks == ["b", "a"]
    assert (of(["--quick"]).tasks, of(["--quick"]).seeds) == (["c"], 1)
    assert (of(["--quick", "--seeds", "2"]).tasks, of(["--quick", "--seeds", "2"]).seeds) == (["c"], 2)


def test_unknown_names_are_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="unknown: d, e; there are a, b"):
        chosen("e,a,d", ["a", "b"])
    with pytest.raises(SystemExit):
        of(["--tasks", "a,z"])
    assert "unknown: z; there are a, b, c" in capsys.readouterr().err


def test_a_quoted_command_has_no_folder_of_the_machine() -> None:
    given = ["--data", "/home/me/data", "--data=/x", "--write", "/home/me/page.md", "--methods", "one,two three"]
    assert command("python -m benchmarks probe", given) == (
        "python -m benchmarks probe --write page.md --methods 'one,two three'"
    )
    assert of(["--data", "/x", "--seeds", "2"]).command == "python -m benchmarks probe --seeds 2"
