"""Training in several processes: one model, whatever their number, and an end where one of them is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.strategies import DDPStrategy
from scvi.train import SaveCheckpoint

from deltavi.errors import DeltaviError, DeltaviWarning
from deltavi.model import PPCA, VAE
from deltavi.train import _ranks
from tests.model.conftest import QUIET, SETUP, log_normalised, small_adata
from tests.models import MODELS

ROOT = Path(__file__).parents[2]
BY_EPOCHS = [name for name, entry in MODELS.items() if entry.by_epochs]
IN_FORKS = [
    "from_a_file",
    "of_scvi_tools",
    "exact",
    "stopped_early",
    "restarted",
    "default_epochs",
    "diverged",
    "one_is_wrong",
    "other_cells",
]
IN_FORKS += ["drifted", "killed", "first_killed", "terminated", "interrupted", "failed"]
# seconds after which another process has to have ended
BOUND = 60
Found = list[dict[str, Any]]


def launch(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-5000:]
    return done


def read(folder: Path, name: str) -> Found:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.*.json"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def in_two(folder: Path) -> Path:
    launch([sys.executable, "-m", "tests.train.in_processes", str(folder / "two"), "2", *IN_FORKS], folder / "two")
    return folder / "two"


@pytest.fixture(scope="module")
def in_three(folder: Path) -> Path:
    names = ["exact", "from_a_file"]
    launch([sys.executable, "-m", "tests.train.in_processes", str(folder / "three"), "3", *names], folder / "three")
    return folder / "three"


@pytest.fixture(scope="module")
def every_model(folder: Path) -> Found:
    """Of torchrun."""
    started = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.train.in_processes"]
    launch([sys.executable, "-m", *started, str(folder / "models"), "0", "every_model"], folder / "models")
    return read(folder / "models", "every_model")


def same_in_all(found: Found, *apart: str) -> dict[str, Any]:
    """What processes found, which but for some of it is the same."""
    first, *others = ({key: value for key, value in one.items() if key not in apart} for one in found)
    for other in others:
        assert other == first
    return first


# -- one model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODELS))
def test_all_processes_end_with_one_model(name: str, every_model: Found) -> None:
    """Weights, latent positions, history, means, calibration and components in use, to the last digit."""
    assert len(every_model) == 2
    found = same_in_all([one[name] for one in every_model], "epochs", "noise")
    assert found["weights"]
    assert found["warned"] == []
    assert found["left alone"]
    if name in BY_EPOCHS:
        assert len(found["history"]["train_loss"]) == len(found["history"]["validation_loss"]) == 4
        assert np.isfinite(found["history"]["validation_loss"]).all()


@pytest.mark.parametrize("name", BY_EPOCHS)
def test_cells_are_dealt_out(name: str, every_model: Found) -> None:
    """Every training cell in every epoch, as many mini-batches of nearly as many cells, in another order each time."""
    of_ranks = [one[name]["epochs"] for one in every_model]
    for of_epoch in zip(*of_ranks, strict=True):
        sizes = [[len(batch) for batch in batches] for batches in of_epoch]
        assert len(sizes[0]) == len(sizes[1])
        assert min(map(min, sizes)) >= 3
        cells = [[cell for batch in batches for cell in batch] for batches in of_epoch]
        assert sorted({*cells[0], *cells[1]}) == every_model[0][name]["train"]
        if name not in ("LABELVI", "MIXVI"):
            # these draw some of the labelled cells again
            assert sorted([*cells[0], *cells[1]]) == every_model[0][name]["train"]
            assert max(abs(a - b) for a, b in zip(*sizes, strict=True)) <= 1
    assert of_ranks[0][0] != of_ranks[0][1]


@pytest.mark.parametrize("name", BY_EPOCHS)
def test_processes_draw_noise_of_their_own(name: str, every_model: Found) -> None:
    (first,), (second,) = (one[name]["noise"] for one in every_model)
    assert first != second


def test_nothing_appears_in_the_folder_of_the_script(every_model: Found, folder: Path) -> None:
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["every_model.0.json", "every_model.1.json"]


@pytest.mark.parametrize("world", [2, 3])
def test_training_is_that_of_one_process_with_larger_mini_batches(world: int, in_two: Path, in_three: Path) -> None:
    """Without noise the same cells give the same gradients, also where the last mini-batch is not even."""
    every = read(in_two if world == 2 else in_three, "exact")
    found = same_in_all(every, "warned")
    assert found["weights"] <= 1e-6
    together, alone = found["losses"]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    # of the training apart, once
    assert ["torchrun started" in message for message in every[0]["warned"]] == [True]
    assert all(one["warned"] == [] for one in every[1:])


@pytest.mark.parametrize("world", [2, 3])
def test_processes_read_their_own_blocks_of_a_file(world: int, in_two: Path, in_three: Path) -> None:
    found = read(in_two if world == 2 else in_three, "from_a_file")
    assert same_in_all(found, "epochs")["loader"] == "StreamedLoader"
    for of_epoch in zip(*(one["epochs"] for one in found), strict=True):
        cells = [[cell for batch in batches for cell in batch] for batches in of_epoch]
        assert sorted(cell for of_rank in cells for cell in of_rank) == found[0]["train"]
        assert len({len(batches) for batches in of_epoch}) == 1


@pytest.mark.parametrize("form", ["memory", "h5ad"])
def test_cells_of_a_data_module_are_dealt_out_once_in_a_model_of_scvi_tools(form: str, in_two: Path) -> None:
    """And not once more by Lightning: every training cell in one mini-batch of one process."""
    found = [one[form] for one in read(in_two, "of_scvi_tools")]
    assert same_in_all(found, "epochs")["weights"]
    for of_epoch in zip(*(one["epochs"] for one in found), strict=True):
        assert len({len(batches) for batches in of_epoch}) == 1
        cells = [cell for batches in of_epoch for batch in batches for cell in batch]
        assert sorted(cells) == found[0]["train"]


def test_early_stopping_ends_all_processes_and_rank_0_writes_the_checkpoint(in_two: Path) -> None:
    found = same_in_all(read(in_two, "stopped_early"))
    assert len(found["history"]["validation_loss"]) == 2
    assert found["saved"] == found["weights"]
    assert found["warned"] == []
    assert found["here"] == []


def test_rank_0_decides_that_a_collapsed_mixture_is_trained_again(in_two: Path) -> None:
    found = read(in_two, "restarted")
    assert same_in_all(found, "warned")["weights"]
    assert ["Training starts again" in message for message in found[0]["warned"]] == [True]
    assert found[1]["warned"] == []


def test_default_epochs_count_the_cells_of_all_processes(in_two: Path) -> None:
    found = same_in_all(read(in_two, "default_epochs"))
    assert found["epochs"] == found["expected"]


def test_a_script_can_be_started_as_it_is(folder: Path) -> None:
    """Lightning starts the other process, and training goes on in both."""
    place = folder / "script"
    launch([sys.executable, "-m", "tests.train.in_processes", str(place), "0", "continued"], place)
    found = same_in_all(read(place, "continued"))
    assert len(read(place, "continued")) == 2
    assert len(found["history"]["train_loss"]) == 3


def test_the_benchmark_runs(folder: Path) -> None:
    options = ["--accelerator", "cpu", "--cells", "400", "--genes", "50", "--epochs", "2", "--batch-size", "32"]
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.scale.ranks"]
    printed = launch([sys.executable, *module, *options], folder / "benchmark").stdout
    speeds, (_, *differences) = printed.split("same positions\n")[1], printed.split()[-4:]
    assert [line.split()[-1] for line in speeds.splitlines()[:4]] == ["True"] * 4
    assert max(map(float, differences[-2:])) <= 1e-6


# -- faults --------------------------------------------------------------------------------------------------------


def test_divergence_is_raised_in_all_processes_and_training_can_start_again(in_two: Path) -> None:
    found = same_in_all(read(in_two, "diverged"), "message")
    assert found["diverged"]
    assert found["weights"]


def test_a_loss_that_is_wrong_in_one_process_ends_all(in_two: Path) -> None:
    first, second = read(in_two, "one_is_wrong")
    assert first["diverged"]
    assert second["diverged"]
    assert first["message"] == f"Rank 1: {second['message']}"
    assert "end of epoch 1" in first["message"]


def test_other_cells_or_seeds_are_refused_in_all_processes(in_two: Path) -> None:
    found = same_in_all(read(in_two, "other_cells"))
    assert found["parts"]["known"]
    assert "names of cells" in found["parts"]["message"]
    assert found["seeds"]["known"]
    assert "seed: 0 on rank 0, 1 on rank 1" in found["seeds"]["message"]
    assert "totals of cells" in found["values"]["message"]
    assert "registered columns" in found["labels"]["message"]


def test_weights_that_drifted_apart_are_an_error(in_two: Path) -> None:
    found = same_in_all(read(in_two, "drifted"))
    assert found["known"]
    assert "weights on rank 1 differ" in found["message"]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("killed", None),
        ("terminated", "TrainingTerminated"),
        ("interrupted", "KeyboardInterrupt"),
        ("failed", "IndexError"),
    ],
)
def test_a_lost_process_ends_the_others(how: str, error: str | None, in_two: Path) -> None:
    first, *second = read(in_two, how)
    assert first["known"]
    assert first["message"].startswith("Rank 1 ended or failed, and rank 0 cannot train without it")
    assert str(in_two / how) in first["message"]
    assert first["seconds"] < BOUND
    assert [one["error"] for one in second] == ([] if error is None else [error])
    # both are at the end of the second epoch, and so is the checkpoint
    assert {one["weights"] for one in [first, *second]} == {first["weights"]}
    loaded = VAE.load(in_two / how)
    assert _ranks.digest(loaded.module) == first["weights"]
    assert first["epochs"] == len(loaded.history["train_loss"]) == 2


def test_the_same_seed_gives_the_same_model(in_two: Path) -> None:
    """Four trainings that ended in the third epoch."""
    found = [read(in_two, how)[0]["weights"] for how in ("killed", "terminated", "interrupted", "failed")]
    assert len(set(found)) == 1


def test_the_checkpoint_of_a_lost_rank_0_can_be_loaded(in_two: Path) -> None:
    (second,) = read(in_two, "first_killed")
    assert second["known"]
    assert second["message"].startswith("Rank 0 ended or failed, and rank 1 cannot train without it")
    assert second["message"].endswith(f"Rank 0 writes the checkpoint {str(in_two / 'first_killed')!r}.")
    assert _ranks.digest(VAE.load(in_two / "first_killed").module) == second["weights"]


# -- refused before anything starts --------------------------------------------------------------------------------


def vae() -> VAE:
    adata = small_adata()
    VAE.setup_anndata(adata, **SETUP)
    return VAE(adata, n_hidden=8, n_latent=2)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook", "ddp_fork", DDPStrategy(start_method="spawn")])
@pytest.mark.parametrize("devices", [1, 2])
def test_processes_that_would_take_the_model_along_are_refused(strategy: Any, devices: int) -> None:
    with pytest.raises(DeltaviError, match=r"would take the trained model with them.*torchrun"):
        vae().train(max_epochs=1, strategy=strategy, devices=devices, **QUIET)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"devices": 64, "strategy": "auto"},
            "130 training cells are too few for 64 processes, each of which needs at least 3",
        ),
        ({"devices": 2, "batch_size": 100, "datasplitter_kwargs": {"drop_last": True}}, "in each of 2 processes"),
        ({"devices": 2, "enable_checkpointing": True}, "write from every process"),
        ({"devices": 2, "callbacks": SaveCheckpoint(monitor="validation_loss")}, "write from every process"),
        ({"devices": 2, "strategy": "fsdp"}, "cannot use these options"),
        ({"devices": 2, "strategy": "no such"}, "cannot use these options"),
        ({"devices": 2, "num_nodes": 0}, "num_nodes"),
    ],
)
def test_options_that_several_processes_cannot_use_are_refused(options: dict[str, Any], match: str) -> None:
    model = vae()
    with pytest.raises(DeltaviError, match=match):
        model.train(max_epochs=1, **{"strategy": "ddp", **options}, **QUIET)
    assert not model.is_trained_


def of_torchrun(monkeypatch: pytest.MonkeyPatch, world: int, rank: int = 0) -> None:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    for name, value in {**values, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, str(value))


def test_another_number_of_devices_than_torchrun_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of_torchrun(monkeypatch, 3)
    said = r"torchrun started 3 processes, and devices=2 with num_nodes=1 are 2: pass devices=3"
    with pytest.raises(DeltaviError, match=said):
        vae().train(max_epochs=1, strategy="ddp", devices=2, **QUIET)
    with pytest.raises(DeltaviError, match="devices=1 with num_nodes=1 are 1"):
        vae().train(max_epochs=1, strategy="ddp", devices=1, **QUIET)


@pytest.mark.parametrize(("script", "said"), [("-c", "python -c"), ("", "python -c"), ("gone.py", "'gone.py'")])
def test_processes_cannot_be_started_without_a_script(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.chdir(tmp_path)
    model = vae()
    with pytest.raises(DeltaviError, match=f"{said}.*{tmp_path.name}.*Write a script"):
        model.train(max_epochs=1, strategy="ddp", devices=2, **QUIET)
    assert not model.is_trained_


def test_processes_of_torchrun_that_train_apart_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    of_torchrun(monkeypatch, 2)
    model = vae()
    with pytest.warns(DeltaviWarning, match=r"torchrun started 2 processes.*strategy='ddp' and devices=2"):
        model.train(max_epochs=1, **QUIET)
    assert model.trainer.world_size == 1


def test_a_closed_form_is_fitted_in_each_process_and_rank_0_writes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adata = log_normalised(small_adata())
    PPCA.setup_anndata(adata)
    for rank in (1, 0):
        of_torchrun(monkeypatch, 2, rank)
        model = PPCA(adata, n_latent=3)
        model.train(checkpoint=tmp_path / "model", strategy="ddp", devices=2, accelerator="cpu")
        assert (tmp_path / "model").exists() == (rank == 0)


@pytest.mark.parametrize("options", [{}, {"devices": "auto"}, {"devices": 1, "strategy": "auto"}])
def test_one_device_is_one_process_without_any_of_this(options: dict[str, Any]) -> None:
    model = vae()
    model.train(max_epochs=1, **options, **QUIET)
    assert model.trainer.world_size == 1
    assert not any(type(callback).__name__ == "SharedTraining" for callback in model.trainer.callbacks)
    assert not isinstance(model.trainer.strategy, DDPStrategy)
