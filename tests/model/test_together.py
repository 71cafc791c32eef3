"""Answers in files of connected processes: the file of one process, or an error in all of them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from deltavi.model._together import seed_of_rank
from tests.model.in_processes import CASES, DRAWN, SOME
from tests.model.screens import read
from tests.train.test_ranks import launch
from tests.train.test_ranks import read as results

IN_TWO = ["answers", "no_cells", "after_training", "warned", "refused", "on_rank_0_alone", "killed", "disconnected"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    place = tmp_path_factory.mktemp("together")
    for world, names in ((2, IN_TWO), (3, ["some_answers"])):
        folder = place / str(world)
        launch([sys.executable, "-m", "tests.model.in_processes", str(folder), str(world), *names], folder)
    return {world: place / str(world) for world in (2, 3)}


def content(path: Path) -> dict[str, str]:
    """Files of a store, or a file, each with a checksum of its bytes."""
    places = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [place for place in places if place.is_file()]
    return {str(place.relative_to(path)): hashlib.sha256(place.read_bytes()).hexdigest() for place in files}


@pytest.mark.parametrize(("name", "world"), [*((name, 2) for name in CASES), *((name, 3) for name in SOME)])
def test_several_processes_write_the_file_of_one(name: str, world: int, folders: dict[int, Path]) -> None:
    """To the last byte: values, types, chunks, tables."""
    found, expected = (content(folder / name) for folder in (folders[world], folders[world] / "alone"))
    assert found == expected


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", DRAWN)
def test_draws_of_another_process_have_a_seed_of_their_own(name: str, world: int, folders: dict[int, Path]) -> None:
    """Rank 0 draws what a single process draws, and each number of processes the same each time."""
    alone, found = (read(folders[world] / place) for place in (f"alone/{name}", name))
    assert content(folders[world] / name) == content(folders[world] / f"again {name}")
    values, expected = (one.obsm["X_vae"] if one.X is None else one.X for one in (found, alone))
    n_first = 16 * (10 // world)
    np.testing.assert_array_equal(values[:n_first], expected[:n_first])
    assert (values[n_first:] != expected[n_first:]).any(1).all()


@pytest.mark.parametrize(("world", "scenario", "names"), [(2, "answers", CASES), (3, "some_answers", SOME)])
def test_all_processes_return_once_the_file_is_there(
    world: int, scenario: str, names: Iterable[str], folders: dict[int, Path]
) -> None:
    found = results(folders[world], scenario)
    assert len(found) == world
    for one in found:
        assert all(one["there"])
        assert one["state"]
        # nothing hidden is left
        assert one["listed"] == sorted(["alone", *names, *DRAWN, *(f"again {name}" for name in DRAWN)])


def test_fewer_blocks_than_processes(folders: dict[int, Path]) -> None:
    for one in results(folders[2], "no_cells"):
        sizes = [read(folders[2] / name).n_obs for name in one["files"]]
        assert sizes == [0, 0, 5, 5]


def test_a_script_writes_after_training(folders: dict[int, Path]) -> None:
    for one in results(folders[2], "after_training"):
        assert one == {"path": "trained.h5ad", "exists": True, "listed": True}
    assert read(folders[2] / "trained.h5ad").obsm["X_vae"].shape == (360, 3)


def test_rank_0_warns(folders: dict[int, Path]) -> None:
    first, second = results(folders[2], "warned")
    assert first["warned"].count("NotHeldOutWarning") == 2
    assert "NotHeldOutWarning" not in second["warned"]


@pytest.mark.parametrize(
    ("name", "of_first", "of_second"),
    [
        ("exists", "exists; pass overwrite=True", "exists; pass overwrite=True"),
        ("paths", "0.h5ad on rank 0, ", "1.h5ad on rank 1. Connected processes share the blocks"),
        ("settings", "do not answer the same question: settings: ", "1, None) on rank 1"),
        ("cells", "names of cells: ", "names of cells: "),
        ("verbs", "'predict'", "'impute'"),
        ("computing", "Rank 1: ValueError: no numbers", "no numbers"),
        ("disk of rank 0", "could not be written to", "Rank 0: The cells could not be written to"),
        ("disk at the end", "could not be written to", "Rank 0: The cells could not be written to"),
        ("disk of rank 1", "Rank 1: The cells could not be written to", "No space left"),
        ("folder", "Rank 1: does not see", "path must be on a disk that all processes share"),
    ],
)
def test_a_fault_of_one_process_is_an_error_in_all(
    name: str, of_first: str, of_second: str, folders: dict[int, Path]
) -> None:
    first, second = (one[name] for one in results(folders[2], "refused"))
    assert of_first in first["message"]
    assert of_second in second["message"]
    assert first["known"]
    assert second["known"] or name == "computing"


def test_faults_leave_the_former_file_and_the_connection(folders: dict[int, Path]) -> None:
    for one in results(folders[2], "refused"):
        assert one["left"] == ["answer.h5ad"]
        assert one["same"]
        assert one["replaced"]


def test_rank_0_that_is_asked_alone_is_told_so(folders: dict[int, Path]) -> None:
    first, _ = results(folders[2], "on_rank_0_alone")
    assert first["known"]
    assert "Rank 1 ended or failed, and rank 0 cannot answer without it" in first["message"]
    assert "ask all of them, with the same arguments" in first["message"]
    assert not (folders[2] / "alone.h5ad").exists()


def test_a_process_that_is_killed_ends_the_others(folders: dict[int, Path]) -> None:
    (first,) = results(folders[2], "killed")
    assert first["known"]
    assert "Rank 1 ended or failed" in first["message"]
    assert not [path.name for path in folders[2].iterdir() if "killed" in path.name and path.suffix != ".json"]


def test_processes_without_connection_answer_alone(folders: dict[int, Path]) -> None:
    assert [one["exists"] for one in results(folders[2], "disconnected")] == [True, True]


@pytest.mark.parametrize("seed", [0, 5, -3, 2**70])
def test_a_process_alone_draws_from_the_seed_itself(seed: int) -> None:
    assert seed_of_rank(seed) == seed
