"""Checkpoints: a model on disk for every epoch that was promised, whatever happens to the process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from deltavi.errors import CheckpointWarning, DeltaviError, ModelFileError, ModelWriteError, TrainingDivergedError
from deltavi.io import _folder
from deltavi.model import MIXVI, PPCA, VAE, _saving
from deltavi.model._faults import finish
from tests.model.conftest import log_normalised, small_adata
from tests.model.faults import CASES, At, raises, same, spoils, train, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::deltavi.errors.MixtureWarning")
every_model = pytest.mark.parametrize("name", list(CASES))
ROOT = Path(__file__).resolve().parents[2]


class Reading(Callback):
    """What a reader finds in the folder when an epoch begins, and the weights when the one before ended."""

    def __init__(self, name: str, folder: Path) -> None:
        self.case, self.folder = CASES[name], folder
        self.found: dict[int, Any] = {}
        self.weights: list[dict[str, Any]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        # what has just been written; an older one was read before
        if self.folder.exists() and (not self.found or self._written() != self.written):
            self.written = self._written()
            self.found[trainer.current_epoch] = self.case.model_class.load(self.folder, small_adata())

    def _written(self) -> int:
        return (self.folder / _folder.MANIFEST).stat().st_mtime_ns

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.weights.append(weights_of(pl_module.module))


# -- what is written, and when -------------------------------------------------------------------------------


@every_model
def test_a_checkpoint_is_the_model_of_its_epoch_and_training_takes_no_notice(name: str, tmp_path: Path) -> None:
    case, reading = CASES[name], Reading(name, tmp_path / "kept")
    model, undisturbed = case.untrained(), case.untrained()
    train(model, reading, checkpoint=tmp_path / "kept")
    train(undisturbed)
    assert same(weights_of(model.module), weights_of(undisturbed.module))
    assert same(case.answers(model), case.answers(undisturbed))
    assert model.history["train_loss"].equals(undisturbed.history["train_loss"])
    assert list(reading.found) == [1, 2, 3, 4]
    for epoch, loaded in reading.found.items():
        # those of components are placed in a checkpoint that comes before training places them
        for part, value in weights_of(loaded.module).items():
            assert part.startswith("mixture") or np.array_equal(value, reading.weights[epoch - 1][part]), part
        assert loaded.is_trained
        assert len(loaded.history["train_loss"]) == epoch
        assert sorted(loaded.train_indices) == sorted(model.train_indices)
        answers = case.answers(loaded)
        assert all(np.isfinite(values).all() for values in answers.values())
        # what is kept of the training cells is of these weights
        finish(loaded)
        assert same(case.answers(loaded), answers, atol=1e-4)
    last = case.model_class.load(tmp_path / "kept", small_adata())
    assert same(case.answers(last), case.answers(model), atol=1e-5)
    assert last.history["train_loss"].equals(model.history["train_loss"])
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_a_checkpoint_draws_and_places_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled, *others = MIXVI.keeps

    def drawing(model: MIXVI) -> None:
        torch.rand(3)
        settled.fit(model)

    monkeypatch.setattr(MIXVI, "keeps", (replace(settled, fit=drawing), *others))
    # placed in the fourth epoch, and for the three checkpoints before
    model, undisturbed = (CASES["MIXVI"].untrained(prior_warmup=0.6) for _ in range(2))
    train(model, checkpoint=tmp_path / "kept")
    train(undisturbed)
    assert same(weights_of(model.module), weights_of(undisturbed.module))


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), (9, [])])
def test_checkpoints_come_every_few_epochs_and_at_the_end(every: int, expected: list[int], tmp_path: Path) -> None:
    model, reading = CASES["VAE"].untrained(), Reading("VAE", tmp_path / "kept")
    train(model, reading, checkpoint=str(tmp_path / "kept"), checkpoint_every=every)
    assert list(reading.found) == expected
    last = CASES["VAE"].model_class.load(tmp_path / "kept")
    assert len(last.history["train_loss"]) == 5


def test_a_checkpoint_can_be_trained_further_into_its_own_folder(tmp_path: Path) -> None:
    case, folder = CASES["LABELVI"], tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        train(case.untrained(), At(2, 1, raises(KeyboardInterrupt())), checkpoint=folder)
    model = case.model_class.load(folder, small_adata())
    reading = Reading("LABELVI", folder)
    train(model, reading, checkpoint=folder, max_epochs=3)
    assert [len(loaded.history["train_loss"]) for loaded in reading.found.values()] == [2, 3, 4]
    assert len(case.model_class.load(folder).history["train_loss"]) == 5


@pytest.mark.parametrize("modes", [True, False])
def test_parts_that_were_left_in_evaluation_stay_so(modes: bool, tmp_path: Path) -> None:
    seen = []

    class Modes(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            part = pl_module.module.z_encoder
            if trainer.current_epoch == 0:
                part.train(modes)
            else:
                seen.append((pl_module.module.training, part.training))

    train(CASES["VAE"].untrained(), Modes(), checkpoint=tmp_path / "kept", max_epochs=2)
    assert seen == [(True, modes)]


def test_a_model_without_epochs_is_saved_when_it_is_fitted(tmp_path: Path) -> None:
    adata = log_normalised(small_adata())
    PPCA.setup_anndata(adata)
    model = PPCA(adata, n_latent=3)
    (tmp_path / "mine").write_text("")
    with pytest.raises(ModelFileError, match="is a file"):
        model.train(checkpoint=tmp_path / "mine")
    assert not model.is_trained
    model.train(checkpoint=tmp_path / "kept", checkpoint_every=7)
    expected = model.get_latent_representation()
    np.testing.assert_allclose(PPCA.load(tmp_path / "kept").get_latent_representation(adata), expected, atol=1e-5)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_senseless_number_of_epochs_is_refused(every: Any, tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match="checkpoint_every"):
        train(CASES["VAE"].untrained(), checkpoint=tmp_path / "kept", checkpoint_every=every)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_hold_a_model_is_refused_before_training(tmp_path: Path) -> None:
    model = CASES["VAE"].untrained()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "figure.pdf").write_text("mine")
    (tmp_path / "manifest.json").write_text("{}")
    for folder in ("", tmp_path, tmp_path / "results" / "figure.pdf"):
        with pytest.raises(ModelFileError, match=r"names nothing|manifest\.json would be|is a file"):
            train(model, checkpoint=folder)
    with pytest.raises(ModelWriteError, match=r"figure\.pdf"):
        train(model, checkpoint=tmp_path / "results" / "figure.pdf" / "kept")
    assert model.history is None
    train(model, max_epochs=1, checkpoint=tmp_path / "results")
    assert VAE.load(tmp_path / "results").is_trained
    assert (tmp_path / "results" / "figure.pdf").read_text() == "mine"


# -- faults --------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_costs_a_warning_and_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, written, write = CASES["VAE"], [], _folder.write_synced

    def full_after_two_models(path: Path, data: bytes) -> None:
        written.append(path.name)
        if len(written) > 8:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(_folder, "write_synced", full_after_two_models)
    model = case.untrained()
    with pytest.warns(CheckpointWarning, match="not of this epoch.*kept: No space left") as caught:
        train(model, checkpoint=tmp_path / "kept")
    assert len([w for w in caught if w.category is CheckpointWarning]) == 1
    assert len(model.history["train_loss"]) == 5
    case.answers(model)
    assert len(case.model_class.load(tmp_path / "kept").history["train_loss"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_saving_cells_to_a_full_disk_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["VAE"]
    model = case.untrained()
    train(model, max_epochs=1)
    model.save(tmp_path / "model", save_anndata=True)

    def full(path: Path, *_: Any) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_saving, "write_cells", full)
    train(model, max_epochs=1)
    with pytest.raises(ModelWriteError, match="model: No space left"):
        model.save(tmp_path / "model", overwrite=True, save_anndata=True)
    loaded = case.model_class.load(tmp_path / "model")
    assert len(loaded.history["train_loss"]) == 1
    assert loaded.adata.shape == model.adata.shape
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_that_diverge_are_not_written(tmp_path: Path) -> None:
    case = CASES["VAE"]
    model, fault = case.untrained(), At(2, 1, spoils(float("nan")))
    with pytest.raises(TrainingDivergedError):
        train(model, fault, checkpoint=tmp_path / "kept")
    loaded = case.model_class.load(tmp_path / "kept", small_adata())
    assert same(weights_of(loaded.module), fault.weights[1])
    assert same(case.answers(loaded), case.answers(model), atol=1e-6)


KILLED = """
import os, signal, sys
from pathlib import Path
from lightning.pytorch.callbacks import Callback
from deltavi.io import _folder
from tests.model.faults import CASES, At, train

name, folder, where = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
write, replace, n_files = _folder.write_synced, os.replace, 0

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def write_some(path, data):
    # the third model is half written
    global n_files
    n_files += 1
    if where == "writing" and n_files == 8:
        path.write_bytes(data[: len(data) // 2])
        die()
    write(path, data)

def replace_some(source, target):
    if where == "replacing" and n_files == 9:
        die()
    return replace(source, target)

_folder.write_synced, os.replace = write_some, replace_some
train(CASES[name].untrained(), *([At(2, 1, die)] if where == "training" else []), checkpoint=folder)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("name", "where"), [("SCGEN", "training"), ("LABELVI", "writing"), ("LABELVI", "replacing"), ("MIXVI", "training")]
)
def test_a_killed_process_leaves_the_model_of_its_last_checkpoint(name: str, where: str, tmp_path: Path) -> None:
    case, folder = CASES[name], tmp_path / "kept"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, name, str(folder), where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -9, done.stderr
    loaded, stopped = case.model_class.load(folder, small_adata()), case.untrained()
    with pytest.raises(KeyboardInterrupt, match="end of epoch 2"):
        train(stopped, At(2, 1, raises(KeyboardInterrupt())))
    assert len(loaded.history["train_loss"]) == 2
    assert same(weights_of(loaded.module), weights_of(stopped.module), atol=1e-6)
    assert same(case.answers(loaded), case.answers(stopped), atol=1e-5)
    train(loaded, max_epochs=1, checkpoint=folder)
    assert len(case.model_class.load(folder).history["train_loss"]) == 3
