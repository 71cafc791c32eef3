"""Options of training: those that do not go together are refused before the first epoch, the others work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from deltavi.errors import DeltaviError, TrainingTerminated
from deltavi.model import LABELVI, MIXVI, SCGEN, VAE, _training_options
from deltavi.model._faults import sigterm_raised
from deltavi.train import loggers
from deltavi.train.progress import EpochBar
from tests.model.conftest import QUIET, SETUP, small_adata
from tests.model.faults import CASES, At, train

pytestmark = pytest.mark.filterwarnings("ignore::deltavi.errors.MixtureWarning")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
ALL = {"train_size": 1.0}


def untrained(cls: Any = VAE) -> Any:
    adata = small_adata()
    cls.setup_anndata(adata, **SETUP)
    return cls(adata, n_latent=3, n_hidden=8)


# -- what is watched -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"early_stopping": True},
        {"plan_kwargs": {"reduce_lr_on_plateau": True}},
        {"check_val_every_n_epoch": 1},
        {"callbacks": EarlyStopping("elbo_validation")},
        {"enable_checkpointing": True},
    ],
)
def test_without_validation_cells_nothing_can_be_watched_on_them(given: dict[str, Any]) -> None:
    model = untrained()
    with pytest.raises(DeltaviError, match="needs cells to validate on, and none are left: pass a train_size below 1"):
        model.train(2, **ALL, **given, **QUIET)
    assert not model.is_trained


@pytest.mark.parametrize(
    "given",
    [
        {"early_stopping": True, "early_stopping_monitor": "train_loss"},
        {"plan_kwargs": {"reduce_lr_on_plateau": True, "lr_scheduler_metric": "elbo_train"}},
        {"callbacks": EarlyStopping("elbo_train", patience=1)},
    ],
)
def test_training_cells_can_be_watched_without_others(given: dict[str, Any]) -> None:
    model = untrained()
    model.train(2, batch_size=32, **ALL, **given, **QUIET)
    assert len(model.history["train_loss"]) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"early_stopping_monitor": "elbo_valid"}, "early_stopping watches 'elbo_valid', .*mean 'elbo_validation'"),
        ({"early_stopping_monitor": "accuracy_validation"}, "which VAE does not log"),
        ({"check_val_every_n_epoch": 5}, "never be looked at: check_val_every_n_epoch=5 is more than 2 epochs"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch must be a whole number"),
        ({"limit_val_batches": 0}, "which limit_val_batches=0 takes away"),
        ({"plan_kwargs": {"reduce_lr_on_plateau": True, "lr_scheduler_metric": "elbo"}}, "reduce_lr_on_plateau watch"),
        ({"callbacks": [EarlyStopping("nothing_train")]}, "the callback EarlyStopping watches 'nothing_train'"),
    ],
)
def test_a_metric_that_is_not_there_is_refused_before_the_first_epoch(given: dict[str, Any], words: str) -> None:
    model = untrained()
    with pytest.raises(DeltaviError, match=words):
        model.train(2, early_stopping=True, **given, **QUIET)
    assert model.history is None


def test_a_callback_of_ones_own_may_log_what_another_watches() -> None:
    class Logs(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("mine", 1.0)

    model = untrained()
    model.train(2, callbacks=[Logs(), EarlyStopping("mine", check_on_train_epoch_end=True)], **QUIET)
    assert model.is_trained


def test_a_rate_falls_at_validations_only() -> None:
    model = untrained()
    plan = {"reduce_lr_on_plateau": True, "lr_patience": 0, "lr_threshold": 1e9}
    model.train(4, check_val_every_n_epoch=2, plan_kwargs=plan, **QUIET)
    assert len(model.history["elbo_validation"]) == 2
    (scheduler,) = model.trainer.lr_scheduler_configs
    assert (scheduler.frequency, scheduler.scheduler.last_epoch) == (2, 2)


# -- callbacks and loggers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
def test_one_callback_or_several(many: bool) -> None:
    monitor = LearningRateMonitor()
    model = untrained()
    model.train(1, callbacks=(monitor,) if many else monitor, **QUIET)
    assert monitor in model.trainer.callbacks


@pytest.mark.parametrize("wrong", ["early", [print], EarlyStopping, 3])
def test_what_is_no_callback(wrong: Any) -> None:
    with pytest.raises(DeltaviError, match=r"callbacks must be callbacks of lightning.pytorch, not"):
        untrained().train(1, callbacks=wrong, **QUIET)


def test_checkpoints_of_lightning_are_pointed_to_those_of_the_model() -> None:
    with pytest.raises(DeltaviError, match=r"needs enable_checkpointing=True. train\(checkpoint=folder\)"):
        untrained().train(1, callbacks=ModelCheckpoint(), **QUIET)


@pytest.mark.parametrize("kind", ["one", "several", "default", "none"])
def test_history_is_kept_beside_any_logger(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path)
    loggers = {"one": CSVLogger(tmp_path), "several": [CSVLogger(tmp_path / "a"), CSVLogger(tmp_path / "b")]}
    model = untrained()
    model.train(2, logger=loggers.get(kind, kind == "default"), **QUIET)
    assert model.history["elbo_train"].index.tolist() == [0, 1]
    assert bool(list(tmp_path.rglob("version_0"))) == (kind != "none")
    # a further training is appended, with what was not logged before
    model.train(1, check_val_every_n_epoch=1, **QUIET)
    assert model.history["elbo_train"].index.tolist() == [0, 1, 2]
    assert model.history["elbo_validation"].index.tolist() == [2]


def test_what_is_no_logger() -> None:
    with pytest.raises(DeltaviError, match="logger must be a logger of lightning"):
        untrained().train(1, logger="csv", **QUIET)


class Stream:
    def __init__(self, terminal: bool) -> None:
        self.isatty = lambda: terminal


def test_a_bar_is_shown_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        kernel = object()

    monkeypatch.setitem(sys.modules, "IPython", None)
    for out, err in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(sys, "stdout", Stream(out))
        monkeypatch.setattr(sys, "stderr", Stream(err))
        assert loggers.bar_is_seen() == (out or err)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", Stream(False))
    assert not loggers.bar_is_seen()
    notebook = type(sys)("IPython")
    notebook.get_ipython = Shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    assert loggers.bar_is_seen()


@pytest.mark.parametrize("seen", [False, True])
def test_training_shows_a_bar_where_it_is_seen_unless_told(seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_training_options, "bar_is_seen", lambda: seen)
    model = untrained()
    for told in (None, not seen):
        model.train(1, accelerator="cpu", **({} if told is None else {"enable_progress_bar": told}))
        shown = any(isinstance(callback, EpochBar) for callback in model.trainer.callbacks)
        assert shown == (seen if told is None else told)


# -- options that cannot be used -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"limit_train_batches": 0}, "limit_train_batches=0 leaves nothing to train by"),
        ({"max_steps": 0}, "max_steps=0 leaves nothing"),
        ({"max_time": {"seconds": 0}}, "Training ended before the first step"),
        ({"datasplitter_kwargs": {"drop_last": True}, "batch_size": 200}, "drop_last leaves no mini-batch: 130"),
        ({"accelerator": "gpu8"}, "cannot use these options of the trainer"),
        ({"precision": "17"}, "cannot use these options of the trainer: .*17"),
        ({"plan_kwargs": {"optimizer": "SGD"}}, "must be one of 'Adam', 'AdamW', 'Custom'"),
        ({"plan_kwargs": {"optimizer": "Custom"}}, "needs 'optimizer_creator'"),
        ({"plan_kwargs": {"lr": -1}}, r"plan_kwargs\['lr'\] must be a number of at least 0"),
        ({"plan_kwargs": ["lr"]}, "plan_kwargs must be a dictionary"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_options_that_leave_a_model_untrained(given: dict[str, Any], words: str) -> None:
    model = untrained()
    with pytest.raises(DeltaviError, match=words):
        model.train(2, **{**QUIET, **given})
    assert not model.is_trained
    assert model.train_indices is None
    model.train(1, **QUIET)


@pytest.mark.parametrize("cls", [VAE, SCGEN, LABELVI])
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_weights_are_in_single_precision_afterwards(cls: Any, precision: str, tmp_path: Path) -> None:
    model = untrained(cls)
    model.train(2, batch_size=32, precision=precision, **QUIET)
    assert {weights.dtype for weights in model.module.parameters()} == {torch.float32}
    assert np.isfinite(model.get_latent_representation()).all()
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model", small_adata())
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_sparse_tensors_train_the_same_model() -> None:
    losses = []
    for sparse in (False, True):
        model = untrained()
        model.train(1, batch_size=32, load_sparse_tensor=sparse, **QUIET)
        losses.append(model.history["train_loss"].to_numpy(float))
    np.testing.assert_allclose(*losses, rtol=1e-2)


def test_configurations_of_scvi_tools_are_read() -> None:
    model = untrained()
    model.train(1, plan_config={"lr": 1e-5, "lr_schedule": "constant"}, plan_kwargs={"lr": 2e-5}, **QUIET)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(2e-5)
    model.train(1, trainer_config={"max_steps": 1}, batch_size=32, **QUIET)
    assert model.trainer.global_step == 1


# -- seeds of scvi-tools -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CASES))
def test_the_seed_of_the_settings_counts_where_no_other_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    assert case.untrained().seed == 0
    seeds = []
    for setting in (1, 2, 2):
        monkeypatch.setattr(type(scvi.settings), "seed", setting)
        seeds.append(case.untrained().seed)
        assert case.untrained(seed=7).seed == 7
        assert case.untrained(seed=0).seed == 0
    assert seeds[0] != seeds[1] == seeds[2]
    # what a file keeps is the number, whatever the setting is one day
    assert seeds[1] in case.untrained().init_params_["non_kwargs"].values()


# -- interrupts ----------------------------------------------------------------------------------------------


def terminates(trainer: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@posix
@pytest.mark.parametrize("name", ["VAE", "LABELVI"])
def test_sigterm_leaves_the_last_good_epoch_in_the_model_and_in_the_checkpoint(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    model, folder = case.untrained(), tmp_path / "kept"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        TrainingTerminated, match=r"ended by SIGTERM. The model is that of the end of epoch 2"
    ) as caught:
        train(model, At(2, 1, terminates), checkpoint=folder, checkpoint_every=50)
    assert caught.value.code == 143
    assert f"The checkpoint {str(folder)!r} is of that epoch." in caplog.text
    assert "NameError" not in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    kept = case.model_class.load(folder, small_adata())
    for answer, other in zip(case.answers(kept).values(), case.answers(model).values(), strict=True):
        np.testing.assert_allclose(answer, other, atol=1e-5)
    assert len(kept.history["train_loss"]) == 2


@posix
def test_a_handler_of_the_user_stays_and_training_ends_with_its_batch() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(TrainingTerminated, match="end of epoch 2"):
            train(CASES["VAE"].untrained(), At(2, 1, terminates))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_other_threads_leave_handlers_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def watch() -> None:
        with sigterm_raised():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert found == [before]


@posix
def test_a_second_signal_does_not_disturb_what_the_first_set_off() -> None:
    with pytest.raises(TrainingTerminated), sigterm_raised():
        try:
            terminates(None)
        finally:
            terminates(None)


def test_an_error_is_not_printed_as_another(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(trainer: Any) -> None:
        raise ZeroDivisionError("a callback's own")

    with pytest.raises(ZeroDivisionError):
        train(CASES["VAE"].untrained(), At(1, 1, fail))
    print("still heard")
    assert capsys.readouterr().out == "still heard\n"


PROGRAM = """
import os, signal
from tests.model.faults import CASES, At, train
train(CASES["VAE"].untrained(), At(2, 1, lambda trainer: os.kill(os.getpid(), signal.SIGTERM)))
"""


@posix
def test_a_program_that_is_terminated_says_so_and_ends_with_the_status_of_a_shell() -> None:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert found.returncode == 143
    assert "Training was ended by SIGTERM. The model is that of the end of epoch 2" in found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("cls", [MIXVI])
def test_a_mixture_hands_all_of_it_on(cls: Any) -> None:
    adata = small_adata()
    cls.setup_anndata(adata, **SETUP)
    model = cls(adata, n_latent=3, n_hidden=8, n_components=4)
    cells = np.arange(adata.n_obs)
    model.train(
        2,
        batch_size=32,
        train_indices=cells[::2],
        validation_indices=cells[1::2],
        callbacks=LearningRateMonitor(),
        **QUIET,
    )
    assert sorted(model.train_indices) == cells[::2].tolist()
