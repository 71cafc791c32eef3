"""An evaluation in a folder: goes on where it stopped, and refuses what does not belong to it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import CodeType
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.errors import DeltaviError, FileWriteError
from deltavi.io import write_file
from deltavi.model import SCGEN
from deltavi.perturbation import BASELINES
from deltavi.tl import Method, PerturbationEvaluation, _resume, evaluate_perturbation
from deltavi.tl._resume import described, differences, file_name
from tests.tl.conftest import ASK, mean_change, noisy

OPTIONS = {**ASK, "baselines": False}


class Counting:
    """A method that counts its calls and may stop at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = 0, stop_at

    def method(self, name: str = "counting") -> dict[str, Any]:
        def count(train: AnnData, query: AnnData, **_: Any) -> Any:
            return self._predict(query)

        return {name: count}

    def _predict(self, query: AnnData) -> Any:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return query.X


def test_a_second_call_computes_nothing(adata: AnnData, tmp_path: Path) -> None:
    counting = Counting()
    first = evaluate_perturbation(adata, counting.method(), **OPTIONS, folder=tmp_path)
    second = evaluate_perturbation(adata, counting.method(), **OPTIONS, folder=tmp_path)
    assert counting.calls == 3
    pd.testing.assert_frame_equal(second.table, first.table, check_exact=True)
    loaded = PerturbationEvaluation.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.table, first.table, check_exact=True)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interruption_loses_only_what_was_not_finished(adata: AnnData, tmp_path: Path, stop_at: int) -> None:
    stopped = Counting(stop_at)
    with pytest.raises(KeyboardInterrupt):
        evaluate_perturbation(adata, stopped.method(), **OPTIONS, folder=tmp_path)
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in files if name.startswith(".part")]
    # of every hold-out before: the method, no change, and the ceiling
    assert len(list((tmp_path / "runs").iterdir())) == 3 * (stop_at - 1)
    with pytest.raises(DeltaviError, match="no finished evaluation"):
        PerturbationEvaluation.load(tmp_path)
    resumed = Counting()
    found = evaluate_perturbation(adata, resumed.method(), **OPTIONS, folder=tmp_path)
    assert resumed.calls == 3 - (stop_at - 1)
    straight = evaluate_perturbation(adata, resumed.method(), **OPTIONS)
    pd.testing.assert_frame_equal(
        found.table.drop(columns="seconds"), straight.table.drop(columns="seconds"), check_exact=True
    )


def test_methods_seeds_baselines_and_hold_outs_are_added(adata: AnnData, tmp_path: Path) -> None:
    old, new = Counting(), Counting()
    evaluate_perturbation(adata, old.method(), **{**OPTIONS, "hold_out": ["type_1"]}, folder=tmp_path)
    options = {**OPTIONS, "hold_out": None, "seeds": (0, 1), "baselines": True}
    found = evaluate_perturbation(adata, old.method() | new.method("new"), **options, folder=tmp_path)
    assert (old.calls, new.calls) == (6, 6)
    assert len(found.table) == 6 * (2 + len(BASELINES) + 1)


def edited_counts(adata: AnnData) -> AnnData:
    adata.X[5, adata.X[5].indices[0]] += 1
    return adata


def moved_count(adata: AnnData) -> AnnData:
    """The sum stays: a count moves to a gene that had none."""
    x = adata.X.toarray()
    empty, full = np.flatnonzero(x[5] == 0)[0], np.flatnonzero(x[5])[0]
    x[5, [empty, full]] = x[5, [full, empty]]
    adata.X = type(adata.X)(x)
    return adata


def swapped_labels(adata: AnnData) -> AnnData:
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    labels[[0, 1, 2, 3]] = labels[[3, 2, 1, 0]]
    adata.obs["cell_type"] = np.roll(labels, 1)
    return adata


def renamed_cells(adata: AnnData) -> AnnData:
    adata.obs_names = [f"x{name}" for name in adata.obs_names]
    return adata


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (edited_counts, {}, "data (sum of )?counts"),
        (moved_count, {}, "data counts"),
        (swapped_labels, {}, "data labels"),
        (renamed_cells, {}, "data cells"),
        (lambda a: a[:-1].copy(), {}, "data n_cells was 180 and is 179"),
        (None, {"n_genes": 30}, "settings n_genes was 40 and is 30"),
        (None, {"genes_from_all_cells": True}, "genes_from_all_cells was False and is True"),
        (None, {"top_genes": "training"}, "top_genes"),
    ],
)
def test_other_data_or_settings_are_refused(
    adata: AnnData, tmp_path: Path, change: Any, options: dict[str, Any], named: str
) -> None:
    evaluate_perturbation(adata, mean_change, **OPTIONS, hold_out=["type_1"], folder=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    changed = adata if change is None else change(adata.copy())
    with pytest.raises(DeltaviError, match=f"other data or settings.*{named}.*another folder"):
        evaluate_perturbation(changed, mean_change, **{**OPTIONS, **options}, hold_out=["type_1"], folder=tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}


def test_another_method_under_the_same_name_is_refused(adata: AnnData, tmp_path: Path) -> None:
    options = {**OPTIONS, "hold_out": ["type_1"], "folder": tmp_path}
    evaluate_perturbation(adata, {"mine": mean_change}, **options)
    with pytest.raises(DeltaviError, match=r"results of 'mine' for 'type_1'.*another name for the method"):
        evaluate_perturbation(adata, {"mine": noisy}, **options)


def test_another_split_under_the_same_name_is_refused(adata: AnnData, tmp_path: Path) -> None:
    perturbed = np.asarray((adata.obs["condition"] == "stimulated") & (adata.obs["cell_type"] == "type_1"))
    half = perturbed & (np.cumsum(perturbed) <= 15)
    evaluate_perturbation(adata, mean_change, **OPTIONS, hold_out={"mine": perturbed}, folder=tmp_path)
    with pytest.raises(DeltaviError, match="held-out cells"):
        evaluate_perturbation(adata, mean_change, **OPTIONS, hold_out={"mine": half}, folder=tmp_path)


def test_a_damaged_part_is_named(adata: AnnData, tmp_path: Path) -> None:
    options = {**OPTIONS, "hold_out": ["type_1"], "folder": tmp_path}
    evaluate_perturbation(adata, mean_change, **options)
    part = sorted((tmp_path / "runs").iterdir())[0]
    part.write_text(part.read_text()[:40])
    with pytest.raises(DeltaviError, match=f"{part.name} is damaged.*delete it"):
        evaluate_perturbation(adata, mean_change, **options)
    part.unlink()
    assert len(evaluate_perturbation(adata, mean_change, **options).table) == 3


def test_a_file_is_no_folder(adata: AnnData, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(DeltaviError, match="is a file, not a folder"):
        evaluate_perturbation(adata, mean_change, **OPTIONS, folder=tmp_path / "x")


def test_predicted_cells_are_kept(adata: AnnData, tmp_path: Path) -> None:
    options = {**OPTIONS, "hold_out": ["type_1"], "folder": tmp_path}
    assert evaluate_perturbation(adata, mean_change, **options).predictions.empty
    found = evaluate_perturbation(adata, mean_change, **options, keep_predictions=True)
    assert list(found.predictions["method"]) == ["mean_change", "no change"]
    again = evaluate_perturbation(adata, mean_change, **options, keep_predictions=True)
    pd.testing.assert_frame_equal(again.table, found.table)
    cells = anndata.read_h5ad(tmp_path / found.predictions["file"][0])
    assert cells.shape == (15, 40)
    assert (cells.obs["condition"] == "stimulated").all()
    assert dict(cells.uns["evaluation"])["method"] == "mean_change"
    pd.testing.assert_frame_equal(PerturbationEvaluation.load(tmp_path).predictions, found.predictions)
    # a kept file that was deleted is computed again
    (tmp_path / found.predictions["file"][0]).unlink()
    evaluate_perturbation(adata, mean_change, **options, keep_predictions=True)
    assert (tmp_path / found.predictions["file"][0]).is_file()


def test_odd_names_make_files(adata: AnnData, tmp_path: Path) -> None:
    odd = {"type_1": "CD4+ T/NK | α", "type_2": "cd4+ t/nk | α", "type_3": "NA"}
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).map(odd)
    found = evaluate_perturbation(adata, {"a/b: c?": mean_change}, **OPTIONS, folder=tmp_path, keep_predictions=True)
    pd.testing.assert_frame_equal(PerturbationEvaluation.load(tmp_path).table, found.table, check_exact=True)
    assert len({Path(file).name.lower() for file in found.predictions["file"]}) == 6


def test_a_folder_with_other_scores_is_refused_and_still_read(adata: AnnData, tmp_path: Path) -> None:
    counting = Counting()
    first = evaluate_perturbation(adata, counting.method(), **OPTIONS, folder=tmp_path)
    file = tmp_path / "evaluation.json"
    identity = json.loads(file.read_text())
    older = [name for name in identity["scores"] if name not in ("explained", "noise")]
    for scores, words in ((older, "it lacks 'explained', 'noise'"), ([*identity["scores"], "x"], "further scores")):
        file.write_text(json.dumps({**identity, "scores": scores}))
        with pytest.raises(DeltaviError, match=f"by another version of deltavi.*{words}.*Use another folder"):
            evaluate_perturbation(adata, counting.method(), **OPTIONS, folder=tmp_path)
    assert counting.calls == 3
    pd.testing.assert_frame_equal(PerturbationEvaluation.load(tmp_path).table, first.table, check_exact=True)


def test_file_names_differ_as_the_keys_do() -> None:
    keys = [("a", "bc"), ("ab", "c"), ("a|b", "c"), ("a", "b|c"), ("A", "bc"), ("x" * 300, "c"), ("x" * 301, "c")]
    names = [file_name(key).lower() for key in keys]
    assert len(set(names)) == len(keys)
    assert max(map(len, names)) < 120


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "a.txt", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def make_adder(number: int) -> Any:
    return lambda query: query + number


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        ("1", 1),
        (mean_change, noisy),
        (lambda x: x + 1, lambda x: x + 2),
        (make_adder(1), make_adder(2)),
        (np.arange(3), np.arange(3.0)),
        (np.arange(4), np.arange(4).reshape(2, 2)),
        ({"a": [1]}, {"a": [2]}),
        (Method(SCGEN), Method(SCGEN, {"n_latent": 3})),
        (Method(SCGEN), Method(SCGEN, predict={"": {"shift": "paired"}})),
        (float("nan"), 1.0),
    ],
)
def test_descriptions_tell_values_apart(one: Any, other: Any) -> None:
    texts = [json.dumps(described(value)) for value in (one, other)]
    assert texts[0] != texts[1]
    assert texts[0] == json.dumps(described(one))
    assert differences(described(one), described(other))
    assert not differences(described(one), described(one))


def under_another_python(code: CodeType) -> str:
    """Every minor version of Python makes other bytecode of a function."""
    return f"another {code.co_name}"


def in_words(number: int) -> str:
    return f"{number:d}"  # a comment


def test_functions_are_told_by_their_source_under_every_python(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = lambda query: query * 2  # noqa: E731
    functions = [mean_change, noisy, make_adder(1), in_words, alone]
    before = [described(function) for function in functions]
    first = evaluate_perturbation(adata, mean_change, **OPTIONS, folder=tmp_path)
    monkeypatch.setattr(_resume, "_of_bytecode", under_another_python)
    assert [described(function) for function in functions] == before
    assert len({json.dumps(words) for words in before}) == len(functions)
    again = evaluate_perturbation(adata, mean_change, **OPTIONS, folder=tmp_path)
    pd.testing.assert_frame_equal(again.table, first.table, check_exact=True)
    # without a source there is nothing else to tell them by
    without: dict[str, Any] = {}
    exec("def made(x): return x", without)
    both = (without["made"], (lambda x: x, lambda x: x + 1)[0])
    assert [described(function)["code"] for function in both] == ["another made", "another <lambda>"]


def test_comments_and_indentation_tell_nothing() -> None:
    texts = ["def f(x):\n    # why\n    return '#' + x  # so\n", "def f(x):\n\n    return '#' + x\n"]
    found = [_resume._without_comments(text) for text in texts]
    assert found[0] == found[1] == "def f(x):\n\n    return '#' + x"
    assert _resume._only_lambda("call(1, lambda x: x + 1)") == "lambda x: x + 1"


def test_a_wrapper_is_not_taken_for_what_it_wraps() -> None:
    def twice(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(x: int) -> Any:
            return function(function(x))

        return wrapper

    assert described(twice(in_words))["code"] != described(in_words)["code"]


def test_descriptions_hold_no_place_in_memory() -> None:
    def outer(x: int) -> Any:
        return sorted(range(3), key=lambda z: z + x)

    class Thing:
        def __init__(self) -> None:
            self.value = object()

    for value in (outer, Thing(), object(), make_adder(3)):
        assert "0x" not in json.dumps(described(value))
    assert described(Thing()) == described(Thing())


# -- what is in the folder already -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("settings.json", '{"editor.fontSize": 12}', "which no evaluation wrote"),
        ("table.csv", "gene,p\nA,1\n", "which no evaluation wrote"),
        ("skipped.csv", None, "which no evaluation wrote"),
        ("evaluation.json", '{"mine": 1}', "holds an evaluation of other data or settings"),
        ("evaluation.json", "[1]", "holds a list, not what an evaluation writes"),
        ("runs", "mine", "is a file, not a folder"),
        ("predictions", "mine", "is a file, not a folder"),
    ],
)
def test_files_of_the_users_are_refused_before_the_first_training(
    adata: AnnData, tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    path, counting = tmp_path / name, Counting()
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(DeltaviError, match=words):
        evaluate_perturbation(adata, counting.method(), **OPTIONS, folder=tmp_path, keep_predictions=True)
    assert counting.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert path.is_dir() if content is None else path.read_text() == content


def test_an_evaluation_is_not_saved_over_files_of_the_users(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation = evaluate_perturbation(adata, Counting().method(), **OPTIONS)
    (tmp_path / "settings.json").write_text("{}")
    for folder in (".", "", tmp_path / "settings.json"):
        with pytest.raises(DeltaviError, match=r"which no evaluation wrote|names nothing|is a file"):
            evaluation.save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    (tmp_path / "settings.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        evaluation.save(".")
    monkeypatch.setenv("HOME", str(tmp_path))
    pd.testing.assert_frame_equal(PerturbationEvaluation.load("~").table, evaluation.table, check_exact=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_disk_that_fills_up_leaves_the_former_evaluation(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = evaluate_perturbation(adata, Counting().method(), **OPTIONS, folder=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(FileWriteError, match=r"No space left on device.*What was there before is unchanged"):
        evaluation.save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
