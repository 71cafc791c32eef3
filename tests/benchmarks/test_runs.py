"""Runs of the benchmarks: kept as they come, resumed, replaced, and a failure that leaves the others alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.harness import runs
from benchmarks.harness.runs import Rows, Run, Study, command, main

ROOT = Path(__file__).resolve().parents[2]
TASKS, METHODS = ("blood", "pancreas"), ("slow", "fast")
BREAKS = "breaks"
done: list[Run] = []


def work(run: Run, data: Path) -> Rows:
    done.append(run)
    if (data / BREAKS).exists() and run.task == "pancreas" and run.method == "slow":
        raise ValueError("no convergence")
    score = len(run.task) + len(run.method) / 10 + run.seed
    return [{"size": size, "score": score * size, "process": os.getpid()} for size in (2, 1)]


def page(table: pd.DataFrame, command: str) -> Iterator[str]:
    yield "# Probe"
    yield table[["task", "method", "seed", "size", "score"]].to_csv(index=False)
    yield f"Made by `{command}`."


STUDY = Study("probe-it", None, TASKS, METHODS, work, page)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # warnings and loggers of this process are those of the tests
    monkeypatch.setattr(runs, "settle", lambda: None)
    done.clear()


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., None]:
    def ask(*arguments: str, study: Study = STUDY) -> None:
        done.clear()
        main(study, ["--data", str(tmp_path), "--write", str(tmp_path / "probe.md"), "--seeds", "2", *arguments])

    return ask


def kept(folder: Path) -> list[Run]:
    table = pd.read_csv(folder / "probe.csv")
    return [Run(*row) for row in table.drop_duplicates(runs.KEYS)[runs.KEYS].itertuples(index=False, name=None)]


EVERY = [Run(task, method, seed) for task in TASKS for method in METHODS for seed in range(2)]


def test_seeds_are_outermost_and_the_table_is_in_order(tmp_path: Path, ask: Callable[..., None]) -> None:
    ask()
    assert done == [Run(task, method, seed) for seed in range(2) for task in TASKS for method in METHODS]
    assert kept(tmp_path) == EVERY
    table = pd.read_csv(tmp_path / "probe.csv")
    assert table["size"].tolist() == [2, 1] * len(EVERY)
    text = (tmp_path / "probe.md").read_text()
    assert text.startswith("# Probe\n\ntask,method,seed,size,score\nblood,slow,0,2,10.8\n")
    assert text.endswith("Made by `python -m benchmarks probe-it --seeds 2 --write docs/benchmarks/probe_it.md`.\n")


def test_what_the_table_has_is_not_repeated(tmp_path: Path, ask: Callable[..., None]) -> None:
    ask("--tasks", "pancreas", "--methods", "fast")
    ask("--keep")
    assert len(done) == 6
    assert not any(run.task == "pancreas" and run.method == "fast" for run in done)
    assert kept(tmp_path) == EVERY
    ask("--keep")
    assert done == []


def test_a_run_that_is_repeated_replaces_its_own_rows(tmp_path: Path, ask: Callable[..., None]) -> None:
    ask()
    table = pd.read_csv(tmp_path / "probe.csv")
    table.assign(score=-1.0).to_csv(tmp_path / "probe.csv", index=False)
    ask("--tasks", "blood", "--methods", "slow", "--seeds", "1")
    again = pd.read_csv(tmp_path / "probe.csv")
    assert len(again) == len(table)
    assert again.loc[again["score"] != -1.0, runs.KEYS].drop_duplicates().to_numpy().tolist() == [["blood", "slow", 0]]


def test_without_seeds_the_page_is_written_from_the_table(tmp_path: Path, ask: Callable[..., None]) -> None:
    ask()
    text = (tmp_path / "probe.md").read_text()
    (tmp_path / "probe.md").unlink()
    ask("--seeds", "0")
    assert done == []
    assert (tmp_path / "probe.md").read_text() == text


def test_a_failed_run_leaves_the_others_and_is_done_next_time(tmp_path: Path, ask: Callable[..., None]) -> None:
    (tmp_path / BREAKS).touch()
    with pytest.raises(SystemExit) as stopped:
        ask()
    told = str(stopped.value)
    assert told.startswith("2 runs failed, and no page was written:\npancreas slow 0: Traceback")
    assert told.count("ValueError: no convergence") == 2
    assert not (tmp_path / "probe.md").exists()
    failed = [Run("pancreas", "slow", seed) for seed in range(2)]
    assert kept(tmp_path) == [run for run in EVERY if run not in failed]
    (tmp_path / BREAKS).unlink()
    ask("--keep")
    assert done == failed
    assert kept(tmp_path) == EVERY


def test_an_interrupt_keeps_what_was_done(
    tmp_path: Path, ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: Run, data: Path) -> Rows:
        if len(done) == 3:
            raise KeyboardInterrupt
        return work(run, data)

    with pytest.raises(KeyboardInterrupt):
        ask(study=Study("probe", None, TASKS, METHODS, interrupted, page))
    assert len(kept(tmp_path)) == 3
    ask("--keep")
    assert len(done) == 5
    assert kept(tmp_path) == EVERY


def test_runs_that_share_something_follow_each_other(ask: Callable[..., None]) -> None:
    ask(study=Study("probe", None, TASKS, METHODS, work, page, together=lambda run: (run.method, run.seed)))
    assert done == [Run(task, method, seed) for seed in range(2) for method in METHODS for task in TASKS]


@pytest.mark.slow
def test_processes_find_the_same_rows(tmp_path: Path, ask: Callable[..., None]) -> None:
    ask()
    alone = pd.read_csv(tmp_path / "probe.csv")
    ask("--jobs", "2")
    assert done == []
    both = pd.read_csv(tmp_path / "probe.csv")
    assert os.getpid() not in set(both["process"])
    pd.testing.assert_frame_equal(both.drop(columns="process"), alone.drop(columns="process"))


def test_rows_must_be_kept_somewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(STUDY, ["--data", str(tmp_path)])
    assert "--write or --csv" in capsys.readouterr().err
    main(STUDY, ["--data", str(tmp_path), "--quick"])
    assert len(done) == 4
    assert "# Probe" in capsys.readouterr().out


def test_the_command_names_what_is_not_all(ask: Callable[..., None]) -> None:
    table = pd.DataFrame({"task": ["blood"], "method": ["fast"], "seed": [0]})
    assert command(STUDY, table) == (
        "python -m benchmarks probe-it --tasks blood --methods fast --seeds 1 --write docs/benchmarks/probe_it.md"
    )
    assert command(STUDY, pd.DataFrame()) == "python -m benchmarks probe-it"


@pytest.mark.slow
def test_a_study_on_real_cells(tmp_path: Path, data_path: Callable[[str], Path]) -> None:
    folder, file = data_path("pbmc3k_labelled.h5ad").parent, tmp_path / "page.md"
    asked = ["imputation", "--quick", "--data", str(folder), "--write", str(file)]
    subprocess.run([sys.executable, "-m", "benchmarks", *asked], check=True, cwd=ROOT, capture_output=True)
    scores = pd.read_csv(file.with_suffix(".csv")).set_index("method")["deviance"]
    # counts of one half foretell the other half worse than the mean profile does, as most are zero by chance
    assert scores["ppca_10"] < scores["observed"]
    assert scores["mean"] < scores["observed"]
    assert "| PPCA, 10 factors |" in file.read_text()
