"""The held-out experiment and the command line that runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.cli import build_parser, main, run_demo
from deltavi.cli._console import Console
from deltavi.cli._demo import format_table
from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError, UnknownArgumentError, UnknownCategoryError
from deltavi.model import MIXVI, SCGEN
from deltavi.perturbation import BASELINES, SPLIT_HALF
from deltavi.tl import HeldOut, Method, PerturbationEvaluation, predict_held_out

MODEL = "SCGEN"
ASK = {"label": "type_2", "control": "control", "perturbation": "stimulated"}
QUICK: dict[str, Any] = {
    "n_genes": 80,
    "max_epochs": 3,
    "model_kwargs": {"n_hidden": 16, "n_latent": 4},
    "train_kwargs": {"enable_progress_bar": False, "accelerator": "cpu"},
}


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return simulate_perturbation(n_genes=120, n_cell_types=4, n_batches=1, n_cells_per_group=40, seed=2)


@pytest.fixture(scope="module")
def found(adata: AnnData) -> HeldOut:
    return predict_held_out(adata, **ASK, **QUICK)


def test_another_model_can_be_asked(adata: AnnData) -> None:
    options = {**QUICK, "model_kwargs": {"n_hidden": 16, "n_latent": 4, "conditional": True}}
    found = predict_held_out(adata, **ASK, **options, model_class=MIXVI, predict_kwargs={"shift": "z"})
    assert list(found.table.index) == ["MIXVI", *BASELINES, SPLIT_HALF]
    assert "MIXVI" in found.conclusion
    assert isinstance(found.model, MIXVI)
    assert found.predicted.uns["deltavi"]["shift"] == "z"


def test_every_method_and_the_ceiling_are_in_the_table(found: HeldOut) -> None:
    assert list(found.table.index) == [MODEL, *BASELINES, SPLIT_HALF]
    assert np.isfinite(found.table.to_numpy(dtype=float)).all()
    assert MODEL in found.conclusion


def test_the_model_never_saw_the_held_out_cells(adata: AnnData, found: HeldOut) -> None:
    seen = found.model.adata
    hidden = (seen.obs["cell_type"] == "type_2") & (seen.obs["condition"] == "stimulated")
    assert not hidden.any()
    assert seen.n_obs + found.real.n_obs + found.reference_cells.n_obs == adata.n_obs
    assert not set(seen.obs_names) & {*found.real.obs_names, *found.reference_cells.obs_names}
    assert found.reference_cells.n_obs == found.control_cells.n_obs == 20


def test_genes_are_chosen_without_the_held_out_cells(adata: AnnData) -> None:
    """Counts that only the held-out cells have must not make a gene variable."""
    marked = adata.copy()
    del marked.obs["total_counts"]
    hidden = np.asarray((marked.obs["cell_type"] == "type_2") & (marked.obs["condition"] == "stimulated"))
    x = marked.X.toarray()
    gene = int(np.argmin(x[~hidden].sum(0)))
    x[hidden, gene] = np.arange(hidden.sum()) * 7.0
    marked.X = type(adata.X)(x)
    name = marked.var_names[gene]
    without, with_leak = (
        predict_held_out(marked, **ASK, **QUICK, genes_from_all_cells=leak).model.gene_names for leak in (False, True)
    )
    assert name not in without
    assert name in with_leak


def test_input_is_untouched(adata: AnnData) -> None:
    before = adata.copy()
    predict_held_out(adata, **ASK, **QUICK)
    assert list(adata.obs) == list(before.obs)
    assert set(adata.uns) == set(before.uns)
    assert (adata.X != before.X).nnz == 0


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"label": "type_22"}, UnknownCategoryError, "type_2"),
        ({"perturbation": "stim"}, UnknownCategoryError, "stimulated"),
        ({"condition_key": "cond"}, UnknownCategoryError, "condition"),
    ],
)
def test_misspelt_questions(adata: AnnData, changes: dict[str, str], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        predict_held_out(adata, **{**ASK, **QUICK, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predict_kwargs": {"shft": "paired"}}, "has no argument 'shft'. Did you mean 'shift'"),
        ({"predict_kwargs": {"shift": "similarty"}}, "Did you mean 'similarity'"),
        ({"predict_kwargs": {"output": "cell"}}, "output"),
        ({"predict_kwargs": {"n_samples": 0}}, "n_samples"),
        ({"perturbation": ["stimulated", "other"]}, "perturbation must be one condition, not 'stimulated', 'other'"),
        ({"n_genes": 0}, "n_genes"),
        ({"n_genes": 2.5}, "n_genes"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_are_checked_before_anything_is_trained(
    adata: AnnData, changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SCGEN, "train", lambda *_, **__: pytest.fail("trained"))
    adata = adata.copy()
    adata.obs["condition"] = adata.obs["condition"].astype(str)
    adata.obs.iloc[:3, adata.obs.columns.get_loc("condition")] = "other"
    with pytest.raises(DeltaviError, match=re.escape(words)):
        predict_held_out(adata, **{**ASK, **QUICK, **changes})


def test_a_method_knows_the_arguments_of_its_model() -> None:
    Method(MIXVI, predict={"": {"shift": "z", "output": "mean"}}, setup_kwargs={"batch_key": "donor"})
    with pytest.raises(UnknownArgumentError, match=r"MIXVI.predict_perturbation has no argument 'profil'"):
        Method(MIXVI, predict={"": {"profil": "decoded"}})
    with pytest.raises(UnknownArgumentError, match="Did you mean 'batch_key'"):
        Method(SCGEN, setup_kwargs={"batch": "donor"})


@pytest.mark.parametrize("name", ["model_kwargs", "train_kwargs", "predict_kwargs"])
def test_settings_are_mappings(adata: AnnData, name: str) -> None:
    with pytest.raises(DeltaviError, match=r"must map names of arguments to their values, not \['x'\]"):
        predict_held_out(adata, **ASK, **{**QUICK, name: ["x"]})


def test_a_model_in_place_of_its_class(adata: AnnData, found: HeldOut) -> None:
    for wrong in (lambda: Method(found.model), lambda: predict_held_out(adata, **ASK, model_class=found.model)):
        with pytest.raises(DeltaviError, match=r"model_class is a model that was made already.*Pass the class, SCGEN"):
            wrong()


def test_nothing_is_printed_and_no_bar_drawn(adata: AnnData, capfd: Any) -> None:
    capfd.readouterr()
    predict_held_out(adata, **ASK, **{**QUICK, "max_epochs": 1, "train_kwargs": {"accelerator": "cpu"}})
    captured = capfd.readouterr()
    assert captured.out == ""
    assert not [word for word in ("Epoch", "Training", "available", "\r") if word in captured.err]


def test_too_few_cells_to_compare_with(adata: AnnData) -> None:
    of = np.asarray((adata.obs["cell_type"] == "type_2") & (adata.obs["condition"] == "stimulated"))
    few = adata[~of | (np.cumsum(of) <= 5)].copy()
    with pytest.raises(DeltaviError, match="5 cells"):
        predict_held_out(few, **ASK, **QUICK)


def test_demo_writes_cells_model_table_and_figure(adata: AnnData, tmp_path: Path, capsys: Any) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "out"
    arguments = ["--data", tmp_path / "cells.h5ad", "--holdout", "type_2", "--out", out, "--genes", 80, "--epochs", 2]
    assert main(["demo", *map(str, arguments), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "similarity shift" in printed
    assert "split-half ceiling" in printed
    predicted = ad.read_h5ad(out / "predicted.h5ad")
    assert (predicted.obs["condition"] == "stimulated").all()
    assert SCGEN.load(out / "model").is_trained
    table = pd.read_csv(out / "scores.csv", index_col=0)
    assert MODEL in table.index
    assert (out / "figure.png").stat().st_size > 10_000
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.h5ad", "--holdout", "B"], "nowhere.h5ad is not a file"),
        (["--genes", "0"], "--genes"),
        (["--holdout", "type_99", "--quiet"], "Known"),
    ],
)
def test_a_wrong_call_says_so_and_ends_with_two(
    arguments: list[str], message: str, capsys: Any, tmp_path: Path
) -> None:
    assert main(["demo", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_holdout_lists_the_labels(adata: AnnData, tmp_path: Path, capsys: Any) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert main(["demo", "--data", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out")]) == 2
    assert "type_1" in capsys.readouterr().err


def test_parser_defaults_and_help() -> None:
    options = build_parser().parse_args(["demo"])
    assert (options.condition_key, options.labels_key) == ("condition", "cell_type")
    done = subprocess.run(
        [sys.executable, "-m", "deltavi.cli", "demo", "--help"], capture_output=True, text=True, check=True
    )
    assert "--holdout" in done.stdout


def test_table_as_text(found: HeldOut) -> None:
    text = format_table(found.table)
    assert len(text.splitlines()) == len(found.table) + 1
    assert "E-distance" in text


@pytest.mark.slow
def test_real_cells(kang_path: Path, tmp_path: Path) -> None:
    """The main job on real cells, in short: better than no change, and cells that look like cells."""
    options = build_parser().parse_args(
        ["demo", "--data", str(kang_path), "--holdout", "CD4T", "--epochs", "40", "--out", str(tmp_path), "--quiet"]
    )
    result = run_demo(options, Console("demo"))
    scores = result.table
    assert scores.loc[MODEL, "pearson_delta"] > scores.loc["mean shift", "pearson_delta"]
    assert scores.loc[MODEL, "e_distance"] < 0.5 * scores.loc["no change", "e_distance"]
    assert 0.8 < scores.loc[MODEL, "variance_ratio"] < 1.25


def test_arguments_reach_the_model_and_the_prediction(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltavi.tl import _experiment

    seen = []
    axes = _experiment.principal_axes
    monkeypatch.setattr(_experiment, "principal_axes", lambda x, **kwargs: seen.append(x.shape) or axes(x, **kwargs))
    found = predict_held_out(adata, **ASK, **QUICK, seed=5, predict_kwargs={"shift": "paired"})
    assert found.model.seed == 5
    assert found.predicted.uns["deltavi"]["shift"] == "paired"
    assert found.predicted.uns["deltavi"]["seed"] == 5
    assert found.model._setup_argument("size_factor_key") == "total_counts"
    # distances are measured on the axes of all real cells, held-out ones included
    assert seen == [(adata.n_obs, 80)]


def test_the_command_line_hands_everything_on(adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    got: dict[str, Any] = {}

    def record(_: AnnData, **arguments: Any) -> None:
        got.update(arguments, threads=torch.get_num_threads())
        raise DeltaviError("stop")

    monkeypatch.setattr("deltavi.tl.predict_held_out", record)
    other = adata.copy()
    other.obs["condition"] = np.where(other.obs["condition"] == "control", "x", "y")
    other.obs["cell_type"] = np.where(other.obs["cell_type"] == "type_1", "z", "other")
    other.layers["L"] = other.X
    other.write_h5ad(tmp_path / "cells.h5ad")
    adata_keys = {
        "condition-key": "condition",
        "labels-key": "cell_type",
        "control": "x",
        "perturbation": "y",
        "layer": "L",
    }
    numbers = {"seed": 7, "threads": 2, "genes": 9, "epochs": 4}
    arguments = [part for name, value in {**adata_keys, **numbers}.items() for part in (f"--{name}", str(value))]
    threads = torch.get_num_threads()
    out = tmp_path / "out"
    assert main(["demo", "--data", str(tmp_path / "cells.h5ad"), "--holdout", "z", "--out", str(out), *arguments]) == 2
    assert torch.get_num_threads() == threads
    assert not out.exists()
    expected = {
        "label": "z",
        "control": "x",
        "perturbation": "y",
        "condition_key": "condition",
        "labels_key": "cell_type",
        "layer": "L",
        "seed": 7,
        "threads": 2,
        "n_genes": 9,
        "max_epochs": 4,
    }
    assert {name: got[name] for name in expected} == expected


def test_demo_of_all_labels_writes_the_table(adata: AnnData, tmp_path: Path, capsys: Any) -> None:
    few = adata[~((adata.obs["cell_type"] == "type_4") & (adata.obs["condition"] == "control"))].copy()
    few.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "out"
    arguments = ["--data", tmp_path / "cells.h5ad", "--all", "--out", out, "--genes", 80, "--epochs", 2, "--quiet"]
    assert main(["demo", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert "similarity shift" in captured.out
    assert "On average SCGEN" in captured.out
    assert "left out: type_4 under stimulated: 'type_4' has 0 cells" in captured.out
    assert captured.err == ""
    evaluation = PerturbationEvaluation.load(out)
    assert list(evaluation.table["hold_out"].unique()) == ["type_1", "type_2", "type_3"]
    assert list(evaluation.table["method"].unique()) == [MODEL, *BASELINES, SPLIT_HALF]
    assert evaluation.settings["methods"][MODEL]["train_kwargs"]["max_epochs"] == 2
    assert evaluation.settings["n_genes"] == 80
    summary = pd.read_csv(out / "summary.csv", header=[0, 1], index_col=0)
    assert summary.loc[MODEL, ("e_distance", "mean")] == pytest.approx(evaluation.summary("e_distance")["mean"][MODEL])
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_all_and_one_exclude_each_other(tmp_path: Path, capsys: Any) -> None:
    assert main(["demo", "--all", "--holdout", "B", "--out", str(tmp_path)]) == 2
    assert "leave out --holdout B" in capsys.readouterr().err
