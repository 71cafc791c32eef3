"""Exceptions and warnings: all that the package raises on purpose can be imported, is documented, and can be caught."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deltavi
from deltavi import errors

SOURCE = Path(deltavi.__file__).parent
API = Path(__file__).parents[1] / "docs" / "api.md"
FILES = sorted(SOURCE.rglob("*.py"))
PUBLIC = [getattr(errors, name) for name in errors.__all__]
# never leave `deltavi.cli.main`, which turns them into a line on standard error and an exit status
OF_THE_COMMAND_LINE = {"CommandError", "DataReadError", "OutputFolderError", "Terminated"}
# classes of Python that are raised, by file, and why that file may
OF_PYTHON = {
    ("__init__.py", "AttributeError"): "the protocol of a module's attributes",
    ("testing/__init__.py", "ModuleNotFoundError"): "the protocol of an import",
    ("perturbation/crossed_file.py", "ValueError"): "caught where a file is read",
    ("registry/stored_rows.py", "ValueError"): "becomes a DeltaviError where rows of a file are read",
    ("model/_scgen.py", "AttributeError"): "the protocol of an object's attributes",
    ("module/_generated.py", "KeyError"): "the protocol of a mapping",
    ("latent/_rows.py", "NotImplementedError"): "an abstract method",
    ("module/_anywhere.py", "NotImplementedError"): "an abstract method",
    ("module/_bounds.py", "NotImplementedError"): "an abstract method",
    ("module/classified.py", "NotImplementedError"): "an abstract method",
    ("module/labelled_vae.py", "NotImplementedError"): "an abstract method",
    ("_devices.py", "ValueError"): "caught where it is raised",
    ("io/_manifest.py", "ValueError"): "becomes a ModelFileError in the reader of the manifest",
    ("io/_inert.py", "ValueError"): "becomes a ModelFileError in the reader of scvi-tools' files",
    ("io/_format.py", "TypeError"): "becomes a DeltaviError where settings are given",
    ("io/_folder.py", "FileExistsError"): "becomes a ModelWriteError at the end of saving",
    ("io/export.py", "FileExistsError"): "becomes a ModelWriteError at the end of exporting",
    ("io/_place.py", "OSError"): "becomes a ModelWriteError where a file is written",
    ("cli/_options.py", "ArgumentTypeError"): "the protocol of argparse",
}


def raised(path: Path) -> Iterator[str]:
    """Names of the classes that a file raises, by a call or as they are."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = what.attr if isinstance(what, ast.Attribute) else getattr(what, "id", "")
            if name[:1].isupper():
                yield name


def own_classes() -> set[type[BaseException]]:
    """Every exception and warning that some module of the package defines."""
    for path in FILES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    found, todo = set(), [BaseException]
    while todo:
        below = todo.pop().__subclasses__()
        todo += [cls for cls in below if cls not in todo]
        found |= {cls for cls in below if cls.__module__.split(".")[0] == "deltavi"}
    return found


def test_every_exception_of_the_package_is_public() -> None:
    assert {cls.__name__ for cls in own_classes()} == {*errors.__all__, *OF_THE_COMMAND_LINE}


def test_nothing_else_is_raised_on_purpose() -> None:
    found = {(path.relative_to(SOURCE).as_posix(), name) for path in FILES for name in raised(path)}
    ours = {*errors.__all__, *OF_THE_COMMAND_LINE}
    assert {(path, name) for path, name in found if name not in ours} == set(OF_PYTHON)
    assert all(path.startswith("cli/") for path, name in found if name in OF_THE_COMMAND_LINE)


def test_warnings_have_a_class_of_the_package() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                named = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                of_python = {name for name in named if isinstance(getattr(builtins, name, None), type)}
                assert not {name for name in of_python if name.endswith("Warning")}, path.name
                category = node.args[1] if len(node.args) > 1 else next(k.value for k in node.keywords)
                name = ast.unparse(category)
                assert name in errors.__all__ or not name[:1].isupper(), f"{path.name} warns in {name}"


@pytest.mark.parametrize("cls", PUBLIC, ids=errors.__all__)
def test_a_public_exception_is_documented_and_derives_from_a_base(cls: type[BaseException]) -> None:
    assert cls.__module__ == "deltavi.errors"
    assert (cls.__doc__ or "").strip()
    base = errors.DeltaviWarning if cls.__name__.endswith("Warning") else errors.DeltaviError
    assert issubclass(cls, base) or issubclass(cls, errors.Terminated)
    assert f"deltavi.errors.{cls.__name__}\n" in API.read_text()


def test_names_in_the_documentation_exist() -> None:
    for page in sorted(API.parent.glob("*.md")):
        for name in re.findall(r"`(\w+(?:Error|Warning|Terminated))`", page.read_text()):
            assert name in errors.__all__ or hasattr(builtins, name), f"{page.name}: {name}"


def test_the_former_place_has_the_same_classes() -> None:
    from deltavi import _errors

    assert all(getattr(_errors, name) is getattr(errors, name) for name in errors.__all__)


def test_exceptions_are_imported_without_torch() -> None:
    code = "import sys, deltavi; deltavi.errors.DeltaviError; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
