"""The type checker knows what a model is: a name that no class declares is an error in every method of model/."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLIP = "_misspelt"


@dataclass(frozen=True)
class Slips:
    """A file of model/ in which the first attribute of ``self`` in each method is misspelt, and the lines of these."""

    text: str
    lines: tuple[int, ...]


def with_slips(text: str) -> Slips:
    """`text` with one slip in each method that reads or calls something of ``self``."""
    lines, where = text.split("\n"), []
    for node in ast.walk(ast.parse(text)):
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)] if is_class(node) else []
        for method in methods:
            found = first_read(method)
            if found is not None:
                line, end = found
                row = lines[line - 1].encode()
                lines[line - 1] = (row[:end] + SLIP.encode() + row[end:]).decode()
                where.append(line)
    return Slips("\n".join(lines), tuple(where))


def is_class(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef)


def first_read(method: ast.FunctionDef) -> tuple[int, int] | None:
    """Line, and column in bytes, where the name of the first attribute of ``self`` that is read ends."""
    reads = [
        (node.lineno, node.end_col_offset)
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and node.lineno == node.end_lineno
    ]
    return min(((line, end) for line, end in reads if end is not None), default=None)


def checked(cache: Path, *shadows: str) -> subprocess.CompletedProcess[str]:
    """Report of mypy on model/, with the settings of the package."""
    options = ["--no-error-summary", "--hide-error-context", "--cache-dir", str(cache), *shadows]
    mypy = [sys.executable, "-m", "mypy", *options, "-p", "deltavi.model"]
    return subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_misspelt_attribute_of_self_is_an_error_in_every_method(tmp_path: Path) -> None:
    slips = {path: with_slips(path.read_text()) for path in sorted((ROOT / "src/deltavi/model").glob("*.py"))}
    as_they_are, misspelt = [], []
    for path, found in slips.items():
        copy, shadow = tmp_path / f"copy_of{path.name}", tmp_path / f"slips_in{path.name}"
        copy.write_text(path.read_text())
        shadow.write_text(found.text)
        as_they_are += ["--shadow-file", str(path.relative_to(ROOT)), str(copy)]
        misspelt += ["--shadow-file", str(path.relative_to(ROOT)), str(shadow)]
    plain = checked(tmp_path / "cache", *as_they_are)
    # what newer versions of others declare in their own way is for the check of the whole package
    assert plain.returncode < 2, plain.stderr
    assert not [line for line in plain.stdout.splitlines() if "/model/" in line], plain.stdout
    errors = re.findall(rf"^(\S+?):(\d+): error: .*{SLIP}", checked(tmp_path / "cache", *misspelt).stdout, re.M)
    made = {(path.name, line) for path, found in slips.items() for line in found.lines}
    assert len(made) > 150
    assert not made - {(Path(name).name, int(line)) for name, line in errors}
