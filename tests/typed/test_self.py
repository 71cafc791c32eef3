"""The type checker knows what a model is: a name that no class declares is an error wherever model/ is given one."""

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
    """A file of model/ with the first attribute of the model misspelt in each function, and the lines of these."""

    text: str
    lines: tuple[int, ...]


def with_slips(text: str) -> Slips:
    """`text` with one slip in each method, and each function of a model, that reads or calls something of it."""
    lines, where = text.split("\n"), []
    for function in functions(ast.parse(text)):
        found = first_read(function)
        if found is not None:
            line, end = found
            row = lines[line - 1].encode()
            lines[line - 1] = (row[:end] + SLIP.encode() + row[end:]).decode()
            where.append(line)
    return Slips("\n".join(lines), tuple(where))


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Methods of classes, and functions whose first argument is a model."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = [part for node in classes for part in node.body if isinstance(part, ast.FunctionDef)]
    plain = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [*methods, *(node for node in plain if node.args.args and node.args.args[0].arg in ("self", "model"))]


def first_read(method: ast.FunctionDef) -> tuple[int, int] | None:
    """Line, and column in bytes, where the name of the first attribute of the model that is read ends."""
    model = method.args.args[0].arg if method.args.args else "self"
    reads = [
        (node.lineno, node.end_col_offset)
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Name)
        and node.value.id == model
        and node.lineno == node.end_lineno
    ]
    return min(((line, end) for line, end in reads if end is not None), default=None)


def checked(cache: Path, *shadows: str) -> subprocess.CompletedProcess[str]:
    """Report of mypy on model/, with the settings of the package."""
    options = ["--no-error-summary", "--hide-error-context", "--cache-dir", str(cache), *shadows]
    mypy = [sys.executable, "-m", "mypy", *options, "-p", "deltavi.model"]
    return subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_misspelt_attribute_of_a_model_is_an_error_in_every_function(tmp_path: Path) -> None:
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
