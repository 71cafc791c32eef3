"""The package keeps its own rules: imports point one way, public things are documented, files stay small."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import deltavi
from deltavi import (
    dataloaders,
    datasets,
    errors,
    get,
    latent,
    likelihood,
    metrics,
    model,
    module,
    perturbation,
    pl,
    pp,
    testing,
    tl,
)
from tests.figures import Function, figures, is_private_import
from tests.models import classes_of

SOURCE = Path(deltavi.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
# Pure functions over arrays and likelihoods; they know no module and no model.
FORBIDDEN = {
    "likelihood": {"latent", "module", "model", "train", "tl", "pl", "perturbation"},
    "latent": {"likelihood", "module", "model", "train", "tl", "pl", "perturbation"},
    "module": {"model", "train", "tl", "pl", "perturbation"},
    "perturbation": {"module", "model", "train", "tl", "pl"},
    "annotation": {
        *("likelihood", "latent", "module", "model", "train", "tl", "pl", "perturbation"),
        *("registry", "datasets", "pp", "io", "metrics"),
    },
    "metrics": {"model", "module", "train", "tl", "pl", "perturbation"},
    "arrays": {
        *("likelihood", "latent", "module", "model", "train", "tl", "pl", "perturbation", "metrics", "registry"),
        *("datasets", "pp", "io", "annotation"),
    },
    "kernels": {
        *("likelihood", "latent", "module", "model", "train", "tl", "pl", "perturbation", "metrics", "registry"),
        *("datasets", "pp", "io", "annotation", "arrays"),
    },
    "registry": {"model", "module", "latent", "likelihood", "train", "tl", "pl", "perturbation", "datasets", "pp"},
    "dataloaders": {"model", "module", "tl", "pl", "cli"},
    "datasets": {"model", "module", "latent", "likelihood", "train", "tl", "pl", "perturbation", "pp"},
    "pp": {"model", "module", "latent", "likelihood", "train", "tl", "pl", "perturbation", "datasets"},
    "io": {"model", "module", "latent", "likelihood", "train", "tl", "pl", "perturbation", "registry"},
    "train": {"model", "tl", "pl", "cli"},
    "model": {"tl", "pl", "cli"},
    "tl": {"cli", "pl"},
    "get": {"model", "module", "train", "tl", "pl", "cli"},
}
# The libraries whose classes are built on.
BELOW = ("scvi", "anndata", "lightning")
PUBLIC: list[ModuleType] = [
    *(dataloaders, datasets, get, latent, likelihood, metrics, model, module, perturbation, pl, pp, testing, tl),
]


def imported(path: Path) -> set[str]:
    """First-level parts of deltavi that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "deltavi" else [f"deltavi.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("deltavi.")}
    return found


@pytest.mark.parametrize("part", sorted(FORBIDDEN))
def test_imports_point_one_way(part: str) -> None:
    for path in sorted((SOURCE / part).rglob("*.py")):
        assert not imported(path) & FORBIDDEN[part], f"{path.relative_to(SOURCE)} reaches up"


def private(name: str) -> bool:
    """True of a name that is for its own package: one underscore before it."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_imports(tree: ast.AST) -> list[str]:
    """Names imported under a private name, or from a private module, of the libraries below."""
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        found += [n for n in names if n.split(".")[0] in BELOW and any(map(private, n.split(".")))]
    return found


def test_private_names_of_libraries_are_imported_in_one_file_only() -> None:
    for path in FILES:
        if path.name != "_compat.py":
            assert not private_imports(ast.parse(path.read_text())), path.name


# Their private attributes that are read, with the reason: no public name says or does the same.
PRIVATE_READ = {
    "_adata_ref": "anndata: the AnnData that a view looks at, to read rows of a file without a copy of the view",
    "_assert_anndata_registered": "manager: its refusal of data that were not set up is given our words",
    **dict.fromkeys(
        ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
        "torch: a module with something attached to it makes its step in the way that calls it",
    ),
    "_get_most_recent_anndata_manager": "models: the setup of data that no model has yet, as setup_anndata left it",
    "_get_setup_method_args": "models: the plugin contract; each setup_anndata hands it to the manager",
    "_init_as_actual": "anndata: what a view does to itself when it is written to",
    "_make_data_loader": "models: the plugin contract; the one way to the mini-batches of an AnnData",
    "_original_attr_key": "fields: the column that a user named, where the field writes to another",
    "_per_instance_manager_store": "models: the managers of query data, held weakly so that the data can be freed",
    "_registry": "manager: what a setup recorded, put back where a transfer fails half way",
    "_train_datasets": "annbatch: the matrices that a loader reads, to find the stores they lie in",
    "_setup_default_attr": "fields: the constant column of data without batches or labels",
}
# Their private methods and hooks that are overridden, with the reason.
PRIVATE_OVERRIDDEN = {
    "_broadcast_sigterm_tensor": "loop: a message between processes at every step, which a lost connection replaces",
    "_check_if_trained": "models: a model that was not trained is refused with our error",
    "_data_splitter_cls": "models: the plugin contract, a hook",
    "_get_generative_input": "modules: the plugin contract, what of inference decoding is given",
    "_get_inference_input": "modules: the plugin contract, what of a mini-batch encoding is given",
    "_get_init_params": "models: the plugin contract, called by each constructor",
    "_get_user_attributes": "models: the attributes that scvi-tools saves",
    "_make_array_categorical": "fields: the codes of a categorical column",
    "_register_manager_for_instance": "models: the managers of query data are held weakly",
    "_train_runner_cls": "models: the plugin contract, a hook",
    "_trainer_cls": "train runner: the plugin contract, a hook",
    "_training_plan_cls": "models: the plugin contract, a hook",
    "_validate_anndata": "models: query data are aligned by genes and checked, the user's object left alone",
}


# What metaclasses write into each class, ours among them.
BY_METACLASSES = {"_abc_impl", "_per_instance_manager_store", "_setup_adata_manager_store"}
BY_NAME = ("getattr", "hasattr", "setattr", "delattr")


def private_names(trees: list[ast.Module]) -> tuple[set[str], set[str]]:
    """Private attributes that are used on any object, and private names that this package itself defines."""
    used, defined = set(), set()
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name | ast.arg):
            defined.add(node.id if isinstance(node, ast.Name) else node.arg)
        elif isinstance(node, ast.Attribute):
            of_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if of_own and isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in BY_NAME:
            used.update(arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant))
    return {name for name in used if private(name)}, {name for name in defined if private(name)}


def overridden(cls: type) -> set[str]:
    """Private names that classes of this package take from those of libraries, in the order in which `cls` looks."""
    own, theirs = set(), set()
    for base in cls.__mro__:
        package = base.__module__.split(".")[0]
        if package in ("deltavi", *BELOW):
            (own if package == "deltavi" else theirs).update(filter(private, vars(base)))
    return own & theirs - BY_METACLASSES


def own_classes() -> Iterator[type]:
    for path in FILES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        yield from (thing for thing in vars(found).values() if isinstance(thing, type))


def test_private_attributes_of_libraries_are_those_of_the_list() -> None:
    """Both ways: a new one needs a reason, and a reason that nothing needs any more goes."""
    used, defined = private_names([ast.parse(path.read_text()) for path in FILES])
    read = {name for name in used - defined if not name.startswith("_deltavi_")}
    assert read == PRIVATE_READ.keys()
    assert set().union(*map(overridden, own_classes())) == PRIVATE_OVERRIDDEN.keys()


def test_a_private_name_would_be_seen() -> None:
    text = "class A:\n    def _a(self):\n        self._b = x._a(x._b, _c, y._d, y.__e__, getattr(y, '_f'))\n"
    assert private_names([ast.parse(text)]) == ({"_a", "_b", "_d", "_f"}, {"_a", "_b", "_c"})
    lines = ["import scvi._x", "from scvi import _x", "from anndata._core.x import y", "from lightning.a import y"]
    assert [len(private_imports(ast.parse(line))) for line in lines] == [1, 1, 1, 0]


def test_models_reach_their_parts_without_a_cast() -> None:
    """Parts of models inherit the typed base, so that what they reach for is declared."""
    for path in (path for part in ("model", "module") for path in sorted((SOURCE / part).glob("*.py"))):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if ast.unparse(call.func) in ("cast", "typing.cast")], path.name


def test_nothing_is_printed_but_by_the_command_line_and_on_request() -> None:
    """Functions return their results, and warn or log what they have to say."""
    for path in FILES:
        if path.parent.name == "cli":
            continue
        tree = ast.parse(path.read_text())
        # scvi-tools has a method that is called in order to print
        asked = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "view_setup_args"
        ]
        on_request = {id(inner) for node in asked for inner in ast.walk(node)}
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) and id(node) not in on_request else None
            assert not (isinstance(called, ast.Name) and called.id in ("print", "breakpoint")), path.name
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout.write"), path.name


# methods that write the file they are given
WRITERS = {"savefig", "to_csv", "to_parquet", "write_h5ad", "write_text", "write_bytes", "save_file"}


def written_places(tree: ast.AST) -> list[str]:
    """Places where a file is opened to be written, or a method writes one elsewhere than it was handed as `part`."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        is_of_writer = any(isinstance(place, ast.Name) and place.id == "part" for place in (*node.args[:1], *owner))
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        opened = name == "open" and any(set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes)
        renamed = ast.unparse(node.func) in ("os.replace", "os.rename", "shutil.move", "os.fsync")
        if opened or renamed or (name in WRITERS and not is_of_writer):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_all_that_is_written_goes_through_one_writer() -> None:
    """`io` hands a hidden file, `part`, to what fills it, sends it down to the disk and moves it in its place."""
    given = {"figure.savefig(save, dpi=SAVE_DPI, bbox_inches='tight')"}  # to a file of the caller's that is open
    for path in FILES:
        if path.parent.name in ("io", "testing"):  # the latter writes to folders of tests
            continue
        places = written_places(ast.parse(path.read_text()))
        assert {place.split(": ")[1] for place in places} <= given, f"{path.relative_to(SOURCE)}, {places}"


@pytest.mark.parametrize("line", ["p.open('w')", "open(p, 'xb')", "t.to_csv(p)", "p.write_text(t)", "os.replace(p, q)"])
def test_a_file_written_elsewhere_would_be_seen(line: str) -> None:
    assert written_places(ast.parse(line))
    assert not written_places(ast.parse("lambda part: (t.to_csv(part), part.write_text(t), open(p, 'rb'), p.open())"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def public_objects() -> list[tuple[str, Any]]:
    return [(f"{m.__name__}.{name}", getattr(m, name)) for m in PUBLIC for name in m.__all__]


@pytest.mark.parametrize(("name", "thing"), public_objects(), ids=[name for name, _ in public_objects()])
def test_public_things_are_documented(name: str, thing: Any) -> None:
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        # a type or a number is explained where it stands
        return
    text = inspect.getdoc(thing) or ""
    assert len(text.splitlines()) > 1, f"{name} needs a docstring"
    if inspect.isfunction(thing):
        parameters = inspect.signature(thing).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert len(positional) <= 3, f"{name} takes {len(positional)} positional arguments"
        for parameter in parameters:
            assert parameter.name in text, f"{name} does not document {parameter.name}"


QUESTION_WORDS = {"how", "what", "whatever", "when", "where", "whether", "which", "who", "whoever", "whose", "why"}


def questions(tree: ast.AST) -> list[str]:
    """First lines of docstrings that begin with a question word rather than with a noun or a verb."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    return [text.splitlines()[0] for text in texts if text and text.split()[0].lower().rstrip(",") in QUESTION_WORDS]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_docstrings_begin_with_a_noun_or_a_verb(path: Path) -> None:
    assert not questions(ast.parse(path.read_text()))


def test_a_docstring_that_begins_with_a_question_word_would_be_seen() -> None:
    line = "Whether it does."
    method = f'class A:\n    def f():\n        """{line}\n\n        More."""'
    for text in (f'"""{line}"""', f'class A:\n    """{line}"""', method):
        assert questions(ast.parse(text)) == [line]
    assert not questions(ast.parse('"""True if it does, which is rare."""'))


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_say_when_they_come(name: str) -> None:
    assert len((getattr(errors, name).__doc__ or "").split()) > 4


PARTS = [getattr(m, name) for m in (latent, likelihood, testing) for name in m.__all__]


@pytest.mark.parametrize("cls", [part for part in PARTS if inspect.isclass(part)])
def test_methods_of_parts_are_documented(cls: type) -> None:
    for name, method in inspect.getmembers(cls, inspect.isroutine):
        if not name.startswith(("_", "test_")) and method.__module__.startswith("deltavi"):
            assert inspect.getdoc(method), f"{cls.__name__}.{name} needs a docstring"


@pytest.mark.parametrize("cls", classes_of())
def test_methods_of_models_document_their_arguments(cls: type) -> None:
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("_") or not method.__module__.startswith("deltavi"):
            continue
        text = inspect.getdoc(method) or ""
        for parameter in list(inspect.signature(method).parameters)[1:]:
            assert parameter in text, f"{cls.__name__}.{name} does not document {parameter}"


def test_top_level_is_what_the_documentation_says() -> None:
    assert set(deltavi.__all__) == {
        "__version__",
        "dataloaders",
        "datasets",
        "errors",
        "get",
        "latent",
        "likelihood",
        "metrics",
        "model",
        "module",
        "perturbation",
        "pl",
        "pp",
        "testing",
        "tl",
    }
    for name in deltavi.__all__:
        assert hasattr(deltavi, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = deltavi.nothing


def test_importing_warns_of_nothing_and_changes_no_global_state() -> None:
    """In a fresh interpreter; scvi-tools' own import is done first, its warnings are its own."""
    code = (
        "import warnings, scvi, anndata, scanpy, torch, numpy as np\n"
        "threads, state = torch.get_num_threads(), np.random.get_state()[1].copy()\n"
        "warnings.simplefilter('error')\n"
        "before = list(warnings.filters)\n"
        "import deltavi, deltavi.model, deltavi.tl, deltavi.cli\n"
        "assert warnings.filters == before and torch.get_num_threads() == threads\n"
        "assert (np.random.get_state()[1] == state).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_only_tests_need_the_tools_of_tests() -> None:
    for path in FILES:
        if path.relative_to(SOURCE).parts[0] == "testing":
            continue
        # the package itself names it for type checkers, and imports it when it is asked for
        assert path == SOURCE / "__init__.py" or "testing" not in imported(path), path.name
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"pytest", "_pytest", "hypothesis"}, path.name


def test_importing_needs_no_tool_of_tests() -> None:
    """In a fresh interpreter where pytest cannot be imported; the shared tests say how it is installed."""
    parts = ", ".join(f"deltavi.{name}" for name in deltavi.__all__ if name not in ("__version__", "testing"))
    code = (
        "import sys\n"
        "sys.modules['pytest'] = None\n"
        f"import deltavi, deltavi.cli, {parts}\n"
        "try:\n"
        "    from deltavi import testing\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error, error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == 'deltavi.testing needs pytest: pip install "deltavi[test]". pytest'


def test_every_module_imports() -> None:
    for path in FILES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


# reached, and to stay so; the others are printed by ``python tests/figures.py`` with what they are to become
HELD = (
    "casts in model/",
    "imports from an underscored module of another package",
    "Any",
    "private functions overridden between classes of model/",
    *(f"classes of this package in {name}" for name in model.__all__),
    "functions above 60 code lines",
    "functions with more than 12 arguments, public signatures apart",
)


@pytest.mark.parametrize("name", HELD)
def test_figures_that_are_reached_are_held(name: str) -> None:
    figure = next(figure for figure in figures() if figure.name == name)
    assert figure.reached, str(figure)


def test_figures_are_printed_with_their_aims() -> None:
    script = Path(__file__).with_name("figures.py")
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    printed = done.stdout.splitlines()
    assert len(printed) == len(figures())
    assert [line.endswith("not yet") for line in printed] == [not figure.reached for figure in figures()]
    assert len([line for line in printed if line.startswith("classes of this package in ")]) == len(model.__all__)


def test_figures_see_what_they_count() -> None:
    body = "\n".join(f"    # why\n\n    x = {i}" for i in range(3))
    text = f'def _f(a, b, *c, d=1, **e):\n    """Text."""\n{body}\n    return x\n'
    function = Function(ast.parse(text).body[0], text.splitlines())  # type: ignore[arg-type]
    assert (function.n_code_lines, function.n_arguments, function.is_public) == (4, 3, False)
    for line, expected in {
        "from deltavi.model._vae import VAE": True,
        "from deltavi.model import VAE": False,
        "from deltavi.registry.checks import x": False,
        "from deltavi._errors import x": False,
    }.items():
        assert is_private_import(ast.parse(line).body[0], "metrics") == expected
