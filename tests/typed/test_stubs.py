"""Types that typings/ gives scvi-tools are true of the one that is installed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STUBS = Path(__file__).parents[2] / "typings"
FILES = sorted(STUBS.rglob("*.pyi"))
KINDS = inspect.Parameter


def module_of(path: Path) -> ModuleType:
    """The module that a stub is of."""
    parts = path.relative_to(STUBS).with_suffix("").parts
    return importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def declared(function: ast.FunctionDef) -> dict[str, tuple[Any, bool]]:
    """Kind of each parameter by name, and whether it has a default."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    found = {a.arg: (KINDS.POSITIONAL_OR_KEYWORD, i >= first_default) for i, a in enumerate(positional)}
    if arguments.vararg:
        found[arguments.vararg.arg] = (KINDS.VAR_POSITIONAL, False)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found[argument.arg] = (KINDS.KEYWORD_ONLY, default is not None)
    if arguments.kwarg:
        found[arguments.kwarg.arg] = (KINDS.VAR_KEYWORD, False)
    return found


def faults_of_function(stub: ast.FunctionDef, function: Any, where: str) -> Iterator[str]:
    """Parameters that are not there, are of another kind, or lie elsewhere."""
    function = getattr(function, "__func__", function)
    real = inspect.signature(function).parameters
    said = declared(stub)
    for name, (kind, has_default) in said.items():
        if name not in real:
            yield f"{where} takes no {name}"
        elif real[name].kind is not kind or (real[name].default is not KINDS.empty) is not has_default:
            yield f"{where}: {name} is {real[name].kind.description}, {real[name]}"
    # by position the same arguments are meant; a newer version may take more by name
    by_position = [name for name, (kind, _) in said.items() if kind is KINDS.POSITIONAL_OR_KEYWORD]
    positional = [name for name, one in real.items() if one.kind is KINDS.POSITIONAL_OR_KEYWORD]
    if positional[: len(by_position)] != by_position:
        yield f"{where} takes {positional}"


def faults_of_class(stub: ast.ClassDef, cls: type, where: str) -> Iterator[str]:
    """Attributes, methods and bases that a class does not have."""
    bases = {base.__name__ for base in cls.__mro__}
    source = "".join(inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith("scvi"))
    for base in stub.bases:
        name = ast.unparse(base).split("[")[0].split(".")[-1].lstrip("_")
        if name != "NamedTuple" and name not in bases:
            yield f"{where} is no {name}"
    for node in stub.body:
        if isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
            # most are set when an object is made
            if not hasattr(cls, name) and not re.search(rf"\b(self|cls)\.{name}\b|^    {name}:", source, re.MULTILINE):
                yield f"{where} has no {name}"
        elif isinstance(node, ast.FunctionDef):
            real = inspect.getattr_static(cls, node.name, None)
            kinds = {ast.unparse(decorator).split(".")[0] for decorator in node.decorator_list}
            if real is None:
                yield f"{where} has no {node.name}"
            elif "property" in kinds:
                if not isinstance(real, property):
                    yield f"{where}.{node.name} is no property"
            elif not isinstance(real, property):
                if ("classmethod" in kinds, "staticmethod" in kinds) != (
                    isinstance(real, classmethod),
                    isinstance(real, staticmethod),
                ):
                    yield f"{where}.{node.name} is a {type(real).__name__}"
                yield from faults_of_function(node, real, f"{where}.{node.name}")


def faults_of(path: Path) -> Iterator[str]:
    """Whatever a stub says that is not true."""
    module = module_of(path)
    for node in ast.parse(path.read_text()).body:
        where = f"{module.__name__}.{getattr(node, 'name', '')}"
        if isinstance(node, ast.ImportFrom):
            kept = [alias.name for alias in node.names if alias.asname == alias.name]
            yield from (f"{module.__name__} has no {name}" for name in kept if not hasattr(module, name))
        elif isinstance(node, ast.AnnAssign) and not hasattr(module, ast.unparse(node.target)):
            yield f"{module.__name__} has no {ast.unparse(node.target)}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            real = getattr(module, node.name, None)
            if real is None:
                yield f"there is no {where}"
            elif isinstance(node, ast.ClassDef):
                yield from faults_of_class(node, real, where)
            else:
                yield from faults_of_function(node, real, where)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUBS)))
def test_names_and_parameters_are_there(path: Path) -> None:
    assert not list(faults_of(path))


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("class DataSplitter:\n    def setup(self, stages: str | None = None) -> None: ...", "takes no stages"),
        ("class DataSplitter:\n    def set_up(self) -> None: ...", "has no set_up"),
        ("class DataSplitter:\n    train_index: int", "has no train_index"),
        ("class DataSplitter:\n    def setup(self, stage: str) -> None: ...", "stage is positional or keyword"),
        ("class DataSplit: ...", "there is no scvi.dataloaders.DataSplit"),
    ],
)
def test_what_is_not_there_is_found(said: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "scvi/dataloaders/__init__.pyi"
    stub.parent.mkdir(parents=True)
    stub.write_text(said)
    monkeypatch.setitem(globals(), "STUBS", tmp_path)
    assert any(fault in found for found in faults_of(stub))
