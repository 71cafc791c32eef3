"""Figures of the design, with what they are to become: ``python tests/figures.py`` prints them.

Those that are reached are held by ``tests/test_architecture.py``.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import deltavi
from deltavi import model

SOURCE = Path(deltavi.__file__).parent
TESTS = Path(__file__).parent
# in the package so that others can use them
SHARED_TESTS = SOURCE / "testing"
MOST_LINES, MOST_ARGUMENTS = 60, 12
# a base class, at most three classes of methods, and the model itself
MOST_CLASSES = dict.fromkeys(model.__all__, 5) | {"SCGEN": 4}


@dataclass(frozen=True)
class Figure:
    """A number, and the most, or the least, that it is to be."""

    name: str
    value: float
    aim: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        return self.value >= self.aim if self.at_least else self.value <= self.aim

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        return f"{self.name:<72} {self.value:>7g}   {bound} {self.aim:g}{'' if self.reached else '   not yet'}"


@dataclass(frozen=True)
class Function:
    """A function or method, and where it stands."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    lines: list[str]

    @property
    def is_public(self) -> bool:
        """True where users write down its arguments: also where they make an object."""
        return self.node.name == "__init__" or not self.node.name.startswith("_")

    @property
    def n_arguments(self) -> int:
        """Named arguments, with the first of a method."""
        given = self.node.args
        return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)

    @property
    def n_code_lines(self) -> int:
        """Lines of the body without its docstring, empty lines and comments."""
        body = self.node.body[ast.get_docstring(self.node) is not None :]
        numbers = {i for part in body for i in range(part.lineno, (part.end_lineno or part.lineno) + 1)}
        return sum(bool(text) and not text.startswith("#") for text in (self.lines[i - 1].strip() for i in numbers))


def package_of(path: Path) -> str:
    """First-level part of deltavi that a file belongs to; empty for the files beside the parts."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


@functools.cache
def sources() -> list[tuple[Path, str, ast.Module]]:
    """Every file of the package but those of shared tests, with its text and what it parses to."""
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if SHARED_TESTS not in path.parents]
    texts = [(path, path.read_text()) for path in paths]
    return [(path, text, ast.parse(text)) for path, text in texts]


def nodes(package: str | None = None) -> Iterator[tuple[str, ast.AST]]:
    """Nodes of one package, or of all, with the package that each stands in."""
    for path, _, tree in sources():
        if package in (None, package_of(path)):
            yield from ((package_of(path), node) for node in ast.walk(tree))


def functions() -> Iterator[Function]:
    """Every function and method of the package."""
    for _, text, tree in sources():
        lines = text.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(node, lines)


def n_casts(package: str) -> int:
    """Calls of ``typing.cast`` in a package."""
    return sum(isinstance(node, ast.Call) and ast.unparse(node.func) == "cast" for _, node in nodes(package))


def n_any() -> int:
    """Places where ``Any`` stands as a type."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for _, node in nodes())


def is_private_import(node: ast.AST, package: str) -> bool:
    """True of a statement that imports from an underscored module of another package of deltavi."""
    if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("deltavi."):
        return False
    _, other, *rest = (node.module or "").split(".")
    return other != package and any(part.startswith("_") for part in rest)


def n_private_imports() -> int:
    """Statements that import from an underscored module of another package."""
    return sum(is_private_import(node, package) for package, node in nodes())


def n_lines(folder: Path) -> int:
    """Lines of the Python files below a folder."""
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def _test_lines_per_line() -> float:
    shared = n_lines(SHARED_TESTS)
    return (n_lines(TESTS) + shared) / (n_lines(SOURCE) - shared)


def n_own_classes(cls: type) -> int:
    """Classes of this package that a model is made of, itself included."""
    return sum(base.__module__.split(".")[0] == "deltavi" for base in cls.__mro__)


def overridden(cls: type) -> set[str]:
    """Private functions of the classes of this package behind a model that stand in more than one of them."""
    own = [base for base in cls.__mro__ if base.__module__.split(".")[0] == "deltavi"]
    private = [
        {name for name, value in vars(base).items() if inspect.isroutine(value) and re.match("_[a-z]", name)}
        for base in own
    ]
    return {name for i, names in enumerate(private) for name in names & set().union(*private[i + 1 :])}


@functools.cache
def figures() -> list[Figure]:
    """All of them."""
    every = list(functions())
    return [
        Figure("casts in model/", n_casts("model"), 0),
        Figure("imports from an underscored module of another package", n_private_imports(), 0),
        Figure("Any", n_any(), 250),
        Figure(f"functions above {MOST_LINES} code lines", sum(f.n_code_lines > MOST_LINES for f in every), 0),
        Figure(
            f"functions with more than {MOST_ARGUMENTS} arguments, public signatures apart",
            sum(f.n_arguments > MOST_ARGUMENTS and not f.is_public for f in every),
            0,
        ),
        *(
            Figure(f"classes of this package in {name}", n_own_classes(getattr(model, name)), most)
            for name, most in MOST_CLASSES.items()
        ),
        Figure(
            "private functions overridden between classes of model/",
            len(set().union(*(overridden(getattr(model, name)) for name in model.__all__))),
            6,
        ),
        Figure("lines of tests per line of source", _test_lines_per_line(), 1.34, at_least=True),
    ]


if __name__ == "__main__":
    print("\n".join(map(str, figures())))
