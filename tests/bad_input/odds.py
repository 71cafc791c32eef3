"""Rows 71 and 73 to 75: names of any kind, columns that are taken, mixtures with too many components."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi._errors import DeltaviError, KeyClashError, MixtureWarning
from tests.bad_input.bench import CASES, N_CELLS, PERTURBATION, Bench, Case, assert_same, refused, untouched
from tests.bad_input.registry import ONLY_MIXTURES, row
from tests.model.conftest import dense
from tests.model.test_mixvi_input import watched_collapse

NAMES = {"type_1": "T|B, µ „α“", "type_2": "naïve/CD4+\t é", "type_3": "细胞 \\n 'x\""}
FOLDER = "résultats 1" if sys.platform == "win32" else "résultats | C:\\models\\µ 1"


def oddly_named(case: Case) -> AnnData:
    """Labels, conditions, batches and genes in many scripts, with bars, quotes and backslashes."""
    adata = case.cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace(NAMES)
    adata.obs["condition"] = adata.obs["condition"].astype(str).replace({"stimulated": "IFN-β | 10 µM"})
    adata.obs["batch"] = adata.obs["batch"].astype(str) + "|ß"
    adata.var_names = [f"{name}|α" for name in adata.var_names]
    return adata


@functools.cache
def answers_under_an_ascii_locale() -> dict[str, list[str]]:
    """Names that every model gives, loaded and asked in a process whose locale knows nothing but ASCII."""
    folder = Path(tempfile.mkdtemp()) / FOLDER
    for case in CASES.values():
        case.fitted(oddly_named(case)).save(folder / case.name, save_anndata=True)
    code = (
        "import json, sys; from pathlib import Path; from deltavi import model as models; import locale\n"
        "assert locale.getpreferredencoding(False).lower() not in ('utf-8', 'utf8')\n"
        "found = {}\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    model = getattr(models, path.name).load(path)\n"
        "    model.get_latent_representation()\n"
        "    model.save(path / 'again')\n"
        "    found[path.name] = [str(name) for name in model._categories('labels')]\n"
        "print(json.dumps(found))\n"
    )
    plain = {**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=plain, capture_output=True, text=True, encoding="ascii"
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@row(71, "names in any script, with vertical bars and backslashes; a locale of ASCII", "they come back as they were")
def odd_names(bench: Bench) -> None:
    case, adata = bench.case, oddly_named(bench.case)
    names = sorted(NAMES.values())
    with untouched(adata, registered=True):
        model = case.fitted(adata)
    assert list(model._categories("labels")) == names
    # codes follow the names in order
    assert_same(case_answers(case, model), case_answers(case, model))
    path = bench.folder / FOLDER / "a model"
    model.save(path, save_anndata=True)
    for loaded in (case.load(path), case.load(str(path)), case.load(path, oddly_named(case))):
        assert list(loaded._categories("labels")) == names
        assert_same(case_answers(case, loaded), case_answers(case, model))
    if case.annotates:
        assert set(model.predict(keep_observed=True)) == set(names)
        assert list(model.predict(soft=True)) == names
    else:
        moved = loaded.predict_perturbation(control="control", perturbation="IFN-β | 10 µM", labels=names[0])
        assert set(moved.obs["cell_type"].astype(str)) == {names[0]}
        assert set(moved.obs["condition"].astype(str)) == {"IFN-β | 10 µM"}
    if sys.platform != "win32":
        assert answers_under_an_ascii_locale()[case.name] == names


def case_answers(case: Case, model: Any) -> pd.DataFrame:
    options = {"perturbation": "IFN-β | 10 µM"} if case.verb == "predict_perturbation" else {}
    return case.ask(model, **options)


@row(
    73, "columns that registration or a prediction would write, and that are taken", "an error; nothing is overwritten"
)
def taken_columns(bench: Bench) -> None:
    case = bench.case
    for key in ("_scvi_labels", "_scvi_batch", "_scvi_condition"):
        adata = case.cells()
        adata.obs[key] = "mine"
        refused(lambda a=adata: case.set_up(a), KeyClashError, f"'{key}'", "rename or drop", of=adata)
        assert (adata.obs[key] == "mine").all()
    # what registration itself wrote is no clash
    adata = case.cells()
    case.set_up(adata)
    case.set_up(adata)
    if case.name == "ACTINN":
        return
    for key in ("deltavi_source_cell", "deltavi_source_condition"):
        query = case.cells()
        query.obs[key] = "mine"
        call = lambda q=query: case.trained.predict_perturbation(q, **PERTURBATION)  # noqa: E731
        refused(call, KeyClashError, f"'{key}'", of=query)


TOO_MANY = dict(ONLY_MIXTURES)
del TOO_MANY["PPCA"]


@row(
    74,
    "more components than cells, and components without cells",
    "an error with both numbers; those without cells are taken out of use",
    without=TOO_MANY,
)
def too_many_components(bench: Bench) -> None:
    case = bench.case
    if case.name == "PPCA":
        # its components are factors
        few = case.cells()[:10].copy()
        model = case.untrained(few, n_latent=9)
        refused(lambda: case.train(model), DeltaviError, "n_latent=9", "10 cells and 40 genes", "smaller", of=few)
        return
    few = case.cells()[:20].copy()
    model = case.untrained(few, n_components=30)
    n_train = int(np.ceil(0.7 * few.obs["cell_type"].value_counts()).sum())
    words = ("30 components", f"{n_train} training cells", "n_components")
    refused(lambda: case.train(model), DeltaviError, *words, of=few)
    # by default there are fewer than cells
    assert case.untrained(case.cells()[:20].copy(), n_components=None).module.n_components < n_train
    # three places for the cells, so that of seven free components some stay empty
    patterns = np.random.default_rng(0).poisson(20.0, size=(3, 40)).astype(np.float32)
    alike = case.cells(lambda x: patterns[np.arange(N_CELLS) % 3])
    alike.obs = alike.obs[[]]
    model = case.model_class
    model.setup_anndata(alike)
    mixture = model(alike, n_components=7, **{key: value for key, value in case.init.items() if key != "n_components"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deltavi.model._mixture_training.has_collapsed", lambda self: False)
        mixture.train(max_epochs=3, batch_size=32, enable_progress_bar=False, accelerator="cpu")
    in_use = len(mixture.component_names)
    assert in_use <= 3
    assert mixture.usage_.effective_number <= in_use + 1e-6
    assert len(mixture.usage_.shares) == in_use
    shares = mixture.get_responsibilities()
    assert shares.shape == (N_CELLS, in_use)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert set(mixture.predict()) <= set(mixture.component_names)


@row(
    75,
    "a mixture that ends with one component in use",
    "a warning and another start; a second one if that is no help",
    without=ONLY_MIXTURES,
)
def collapse(bench: Bench) -> None:
    case = bench.case
    setup = {key: value for key, value in case.setup.items() if key != "labels_key"}
    for n_collapses, said in (
        (1, ["Training starts again"]),
        (9, ["Training starts again", "cells may be of one kind"]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            runs = watched_collapse(patch, n_collapses)
            adata = case.cells()
            case.model_class.setup_anndata(adata, **setup)
            model = case.model_class(adata, **case.init)
            with pytest.warns(MixtureWarning) as caught:
                case.train(model, max_epochs=3, train_size=0.9)
        texts = [str(one.message) for one in caught if issubclass(one.category, MixtureWarning)]
        assert len(texts) == len(said)
        assert all(f"1.0 of {case.init['n_components']} components are used" in text for text in texts)
        assert all(word in text for word, text in zip(said, texts, strict=True))
        assert [seed for seed, _ in runs] == [None, 1]
        assert (model.usage_.effective_number > 1.5) == (n_collapses == 1)
        assert np.isfinite(dense(model.get_responsibilities().to_numpy())).all()
