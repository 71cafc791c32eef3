"""Evaluations on a cluster: Dask's workers, in processes of their own, through joblib's active backend."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import deltavi
from deltavi.errors import DeltaviError, InputDataError
from deltavi.model import SCGEN
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation
from deltavi.tl._processes import CELLS, _cells_at, _run_in_turn, is_elsewhere
from tests.tl.conftest import ASK, mean_change, noisy

distributed = pytest.importorskip("distributed")

QUICK = Method(SCGEN, {"n_hidden": 8, "n_latent": 3}, {"max_epochs": 1})
# Dask warns of objects that are large for a task, and of a port that is taken, and tells what it cancels.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:distributed", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two processes of two threads each, which work in another folder than the first process."""
    with (
        tempfile.TemporaryDirectory() as elsewhere,
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None, local_directory=elsewhere
        ) as made,
        distributed.Client(made) as client,
    ):
        client.run(os.chdir, elsewhere)
        yield client


@pytest.fixture
def on_cluster(cluster: Any) -> Iterator[Any]:
    with joblib.parallel_config("dask"):
        yield cluster


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary folder of the first process, in which nothing is left."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def scores(found: PerturbationEvaluation) -> pd.DataFrame:
    return found.table.drop(columns="seconds")


@pytest.mark.slow
def test_a_cluster_changes_no_bit(
    cluster: Any, experiment: AnnData, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model, a function that draws, one from a closure, and all baselines, from a folder with a relative path."""
    monkeypatch.chdir(tmp_path)
    offset = 0.25
    methods = {"SCGEN": QUICK, "noisy": noisy, "closure": lambda train, query, **_: query.X.toarray() + offset}
    options = {**ASK, "seeds": (0, 1), "hold_out": ["type_1", "type_2"]}
    alone = evaluate_perturbation(experiment, methods, **options)
    with joblib.parallel_config("dask"):
        together = evaluate_perturbation(
            experiment, methods, **options, n_jobs=-1, folder="runs", keep_predictions=True
        )
    pd.testing.assert_frame_equal(scores(together), scores(alone), check_exact=True)
    assert together.warnings == alone.warnings
    assert not list(empty.iterdir())
    assert not [one for one in (tmp_path / "runs").iterdir() if one.name.startswith(".")]
    assert len(list((tmp_path / "runs" / "predictions").iterdir())) == len(together.predictions)
    pd.testing.assert_frame_equal(scores(PerturbationEvaluation.load(tmp_path / "runs")), scores(alone))


def asked_of(place: Path, train: AnnData, query: AnnData, **ask: Any) -> Any:
    """A method that notes where it ran, and fails for one label as long as a file is there."""
    label = str(query.obs["cell_type"].iloc[0])
    (place / f"{label} {ask['seed']} {time.time_ns()}").write_text(str(os.getpid()))
    if label == "type_2" and (place / "fails").exists():
        raise ValueError("out of luck")
    return mean_change(train, query, **ask)


def test_what_failed_on_a_cluster_is_resumed_from_its_folder(
    on_cluster: Any, experiment: AnnData, empty: Path, tmp_path: Path
) -> None:
    place = tmp_path / "noted"
    place.mkdir()
    (place / "fails").write_text("")
    methods = {"noting": partial(asked_of, place)}
    options = {**ASK, "baselines": False, "split_half": False, "folder": tmp_path / "runs", "seeds": (0, 1)}
    with pytest.raises(ValueError, match="out of luck") as caught:
        evaluate_perturbation(experiment, methods, **options, n_jobs=2)
    assert "This was 'noting' on the hold-out 'type_2' under 'stimulated'." in caught.value.__notes__
    # those that were under way end later
    time.sleep(1)
    processes = {one.read_text() for one in place.iterdir() if one.name != "fails"}
    assert str(os.getpid()) not in processes
    finished = {one: one.stat().st_mtime_ns for one in (tmp_path / "runs" / "runs").iterdir()}
    assert finished
    (place / "fails").unlink()
    found = evaluate_perturbation(experiment, methods, **options, n_jobs=2)
    assert len(found.table) == 2 * 2 * 3
    assert {one: one.stat().st_mtime_ns for one in finished} == finished
    assert not list(empty.iterdir())
    assert not [one for one in (tmp_path / "runs").iterdir() if one.name.startswith(".")]


def dies_once(place: Path, train: AnnData, query: AnnData, **ask: Any) -> Any:
    """A method whose first process ends without a word, as at the limit of a job."""
    with suppress(FileExistsError):
        (place / "ended").touch(exist_ok=False)
        os._exit(1)
    return mean_change(train, query, **ask)


def test_the_task_of_a_lost_worker_is_computed_by_another(
    on_cluster: Any, experiment: AnnData, empty: Path, tmp_path: Path
) -> None:
    options = {**ASK, "baselines": False, "split_half": False}
    found = evaluate_perturbation(experiment, {"lost": partial(dies_once, tmp_path)}, **options, n_jobs=2)
    assert (tmp_path / "ended").exists()
    pd.testing.assert_frame_equal(
        scores(found), scores(evaluate_perturbation(experiment, {"lost": mean_change}, **options)), check_exact=True
    )
    assert not list(empty.iterdir())


def too_few(train: AnnData, query: AnnData, **_: Any) -> Any:
    return query.X[:3]


def test_an_error_is_that_of_one_process(on_cluster: Any, experiment: AnnData, empty: Path) -> None:
    told = []
    for n_jobs in (1, 2):
        with pytest.raises(InputDataError, match="'too_few' returned 3 cells") as caught:
            evaluate_perturbation(experiment, too_few, **ASK, n_jobs=n_jobs)
        told.append((type(caught.value), str(caught.value)))
        # of several that fail at once any may be the first
        (note,) = caught.value.__notes__
        assert note.startswith("This was 'too_few' on the hold-out 'type_")
    assert told[0] == told[1]
    assert not list(empty.iterdir())


def test_threads_of_a_worker_take_turns(tmp_path: Path, experiment: AnnData) -> None:
    """Warnings and the number of threads are those of a process."""
    path, inside, most = str(tmp_path / CELLS), [], []
    joblib.dump(experiment, path)

    def run(cells: AnnData, task: int) -> int:
        inside.append(task)
        most.append(len(inside))
        time.sleep(0.05)
        inside.remove(task)
        return task

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda task: _run_in_turn(run, path, task, deltavi.__version__), range(4))
        assert list(found) == [0, 1, 2, 3]
    assert max(most) == 1


def test_one_job_stays_in_this_process(on_cluster: Any, experiment: AnnData, tmp_path: Path) -> None:
    place = tmp_path / "noted"
    place.mkdir()
    options = {**ASK, "baselines": False, "split_half": False}
    evaluate_perturbation(experiment, {"noting": partial(asked_of, place)}, **options)
    assert {one.read_text() for one in place.iterdir()} == {str(os.getpid())}


def test_backends_of_this_machine_are_no_cluster(cluster: Any) -> None:
    assert not is_elsewhere()
    for name in ("loky", "threading", "multiprocessing", "sequential"):
        with joblib.parallel_config(name):
            assert not is_elsewhere()
    with joblib.parallel_config("dask"):
        assert is_elsewhere()


def test_a_machine_without_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match=r"cannot read .*No such file.* folder that all machines have"):
        _cells_at(str(tmp_path / "nowhere" / CELLS))


def test_a_machine_with_another_version_says_so(tmp_path: Path, experiment: AnnData) -> None:
    path = str(tmp_path / CELLS)
    joblib.dump(experiment, path)
    assert _run_in_turn(lambda cells, task: (cells.n_obs, task), path, 3, deltavi.__version__) == (experiment.n_obs, 3)
    with pytest.raises(DeltaviError, match=r"has deltavi .* started by 0\.0\.1: use the same environment") as caught:
        _run_in_turn(lambda cells, task: task, path, 3, "0.0.1")
    # as it comes back from a worker
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_workers_map_the_counts(tmp_path: Path, experiment: AnnData) -> None:
    path = str(tmp_path / CELLS)
    joblib.dump(experiment, path)
    assert isinstance(_cells_at(path).X.data, np.memmap)
