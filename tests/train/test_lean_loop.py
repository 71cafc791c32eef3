"""Steps in one turn of the loop: the numbers of single steps, and single steps where anything depends on them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from deltavi.errors import TrainingDivergedError
from deltavi.model import VAE
from deltavi.train import ObjectivePlan, _lean_loop
from deltavi.train._lean_loop import OF_CALLBACKS, OF_LOADERS, OF_PLANS
from deltavi.train.on_device import DeviceSplitter
from tests.models import EVERY, MODELS

BY_EPOCHS = [name for name, entry in EVERY.items() if entry.by_epochs]
N_BATCHES, N_EPOCHS = 4, 3


def custom(optimizer: type[torch.optim.Optimizer], **options: Any) -> dict[str, Any]:
    """Keywords of a plan with an optimiser of the user's own."""
    return {"optimizer": "Custom", "optimizer_creator": lambda weights: optimizer(weights, lr=1e-3, **options)}


PLANS: dict[str, dict[str, Any]] = {
    "one cycle": {},
    "staircase": {"lr_schedule": "staircase"},
    "AdamW": {"lr_schedule": "constant", "optimizer": "AdamW"},
    "warm-up by steps": {"n_epochs_kl_warmup": None, "n_steps_kl_warmup": 7},
    "another optimiser": custom(torch.optim.SGD, momentum=0.9),
    "closure evaluated again": {"lr_schedule": "constant", **custom(torch.optim.LBFGS, max_iter=2)},
}


@contextmanager
def single_steps() -> Iterator[None]:
    """Let Lightning make every step."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_lean_loop, "needs_single_steps", lambda trainer: True)
        yield


def trained(name: str = "VAE", model: Any = None, **options: Any) -> Any:
    model = MODELS[name].untrained() if model is None else model
    known = {"max_epochs": N_EPOCHS, "check_val_every_n_epoch": 1, "train_size": 0.9}
    EVERY[name].train(model, **{**known, **options})
    return model


def left_by(model: Any) -> dict[str, Any]:
    """What users can read after a training."""
    trainer = model.trainer
    found = {f"weight {name}": values for name, values in model.module.state_dict().items()}
    found |= {f"history {name}": torch.tensor(v.to_numpy(float)) for name, v in model.history.items()}
    found |= {f"metric {name}": value for name, value in trainer.callback_metrics.items()}
    state = trainer.optimizers[0].state_dict()
    found |= {f"rate {i}": torch.tensor(group["lr"]) for i, group in enumerate(state["param_groups"])}
    for i, values in state["state"].items():
        found |= {f"moment {i} {key}": value for key, value in values.items() if isinstance(value, torch.Tensor)}
    counters = (trainer.global_step, trainer.current_epoch, trainer.num_training_batches)
    return found | {"counters": counters, "loops": trainer.fit_loop.state_dict()}


def assert_same(found: Any, expected: Any) -> None:
    found, expected = left_by(found), left_by(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = found[name].equal(value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, (name, found[name], value)


# -- the same numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_EPOCHS)
def test_every_model_trains_as_by_single_steps(name: str, lean: list[int]) -> None:
    found = trained(name, EVERY[name].untrained())
    assert set(lean) >= {0, 1}
    n_lean = len(lean)
    with single_steps():
        expected = trained(name, EVERY[name].untrained())
    assert len(lean) == n_lean
    assert_same(found, expected)


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_trains_as_by_single_steps(plan: str, lean: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # a stair is shorter than the training
    monkeypatch.setattr("deltavi.train._plan.STAIR_STEPS", 4)
    found = trained(plan_kwargs=PLANS[plan])
    assert lean == list(range(N_BATCHES - 1)) * N_EPOCHS
    with single_steps():
        assert_same(found, trained(plan_kwargs=PLANS[plan]))


def test_a_training_goes_on_as_by_single_steps(lean: list[int]) -> None:
    found = trained(model=trained())
    assert len(lean) == 2 * (N_BATCHES - 1) * N_EPOCHS
    with single_steps():
        assert_same(found, trained(model=trained()))


@pytest.mark.parametrize("batch_size", [64, 128, 1000])
def test_epochs_of_few_mini_batches(batch_size: int, lean: list[int]) -> None:
    found = trained(batch_size=batch_size)
    assert len(lean) == N_EPOCHS * (found.trainer.num_training_batches - 1)
    with single_steps():
        assert_same(found, trained(batch_size=batch_size))


def folder(path: Path) -> dict[str, Any]:
    return {"logger": CSVLogger(path), "log_every_n_steps": 2}


# options that single steps are not needed for: keywords by the folder that they may write to
LEAN: dict[str, Any] = {
    "early stopping": lambda _: {
        "max_epochs": 9, "kl_warmup": 0.0, "early_stopping": True, "early_stopping_patience": 2,
        "early_stopping_min_delta": 1e9,
    },
    "loggers": folder,
    "fewer mini-batches": lambda _: {"limit_train_batches": 3},
    "checkpoint": lambda path: {"checkpoint": path / "model"},
    "validation now and then": lambda _: {"check_val_every_n_epoch": 2},
    "no validation": lambda _: {"train_size": 1.0, "check_val_every_n_epoch": None},
    "anomalies": lambda _: {"detect_anomaly": True},
    "hooks of epochs": lambda _: {"callbacks": [LambdaCallback(on_train_epoch_end=lambda *_: None)]},
    "last mini-batch left out": lambda _: {"datasplitter_kwargs": {"drop_last": True}},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
@pytest.mark.parametrize("option", LEAN)
def test_most_options_need_no_single_steps(option: str, lean: list[int], tmp_path: Path) -> None:
    found = trained(**LEAN[option](tmp_path / "lean"))
    assert lean
    with single_steps():
        assert_same(found, trained(**LEAN[option](tmp_path / "single")))
    written = {kind: sorted((tmp_path / kind).rglob("metrics.csv")) for kind in ("lean", "single")}
    assert len(written["lean"]) == (option == "loggers")
    for ours, theirs in zip(written["lean"], written["single"], strict=True):
        assert ours.read_text() == theirs.read_text()


# -- single steps ------------------------------------------------------------------------------------------------


def hooked(name: str) -> Callback:
    """A callback with one method of its own."""
    return type("Hooked", (Callback,), {name: lambda *_, **__: None})()


# options that single steps are needed for
SINGLE: dict[str, dict[str, Any]] = {
    "clipping": {"gradient_clip_val": 0.5},
    "accumulation": {"accumulate_grad_batches": 2},
    "double precision": {"precision": "64-true"},
    "mixed precision": {"precision": "bf16-mixed"},
    "steps": {"max_steps": 8},
    "time": {"max_time": {"hours": 1}},
    "profiler": {"profiler": "simple"},
    "validation within an epoch": {"val_check_interval": 0.5},
    "logs of steps": {"plan_kwargs": {"on_step": True}},
    "monitor of rates": {"callbacks": [LearningRateMonitor()]},
    "plateaus": {"plan_kwargs": {"reduce_lr_on_plateau": True}},
    "checkpoints of Lightning": {"callbacks": [ModelCheckpoint(every_n_train_steps=2)], "enable_checkpointing": True},
    **{name: {"callbacks": [hooked(name)]} for name in OF_CALLBACKS},
    "hook of an object": {"callbacks": [LambdaCallback(on_train_batch_end=lambda *_: None)]},
}


@pytest.mark.parametrize("option", SINGLE)
def test_single_steps_are_made_where_they_are_asked_for(
    option: str, lean: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path)
    monkeypatch.chdir(tmp_path)
    trained(**{"train_size": 0.9, **SINGLE[option]})
    assert not lean


def test_an_optimiser_may_forget_gradients_in_its_own_way(lean: list[int]) -> None:
    class Keeping(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            called.append(set_to_none)
            super().zero_grad(set_to_none=False)

    called: list[bool] = []
    plan = {"optimizer": "Custom", "optimizer_creator": lambda weights: Keeping(weights, lr=1e-3)}
    found = trained(plan_kwargs=plan)
    assert len(called) == found.trainer.global_step == len(lean) + N_EPOCHS
    with single_steps():
        assert_same(found, trained(plan_kwargs=plan))


@pytest.mark.filterwarnings("ignore:You have overridden:UserWarning")
@pytest.mark.parametrize("name", OF_PLANS)
def test_a_hook_of_a_plan_is_called_at_every_step(name: str, lean: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return getattr(ObjectivePlan, name)(self, *args, **kwargs)

    monkeypatch.setattr(VAE, "_training_plan_cls", type("Plan", (ObjectivePlan,), {name: hook}))
    model = trained()
    # hooks of loaders are the data module's where it has them
    assert len(called) == model.trainer.global_step or name in OF_LOADERS
    assert not lean


@pytest.mark.parametrize("name", OF_LOADERS)
def test_a_hook_of_loaders_is_called_for_every_mini_batch(
    name: str, lean: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return getattr(DeviceSplitter, name)(self, *args, **kwargs)

    monkeypatch.setattr(VAE, "_data_splitter_cls", type("Splitter", (DeviceSplitter,), {name: hook}))
    model = trained()
    assert len(called) >= model.trainer.global_step
    assert not lean


def test_sparse_tensors_are_made_dense(lean: list[int]) -> None:
    trained(datasplitter_kwargs={"load_sparse_tensor": True})
    assert not lean


def test_a_callback_of_mini_batches_sees_each_of_them(lean: list[int]) -> None:
    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, plan: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append((batch_idx, trainer.global_step, len(batch["X"]), float(outputs["loss"])))

    seen: list[tuple[int, int, int, float]] = []
    model = trained(callbacks=Watch())
    assert [number for number, *_ in seen] == list(range(N_BATCHES)) * N_EPOCHS
    assert [steps for _, steps, *_ in seen] == list(range(1, N_EPOCHS * N_BATCHES + 1))
    losses = np.array([[size, loss] for *_, size, loss in seen]).reshape(N_EPOCHS, N_BATCHES, 2)
    means = (losses[..., 0] * losses[..., 1]).sum(1) / losses[..., 0].sum(1)
    np.testing.assert_allclose(model.history["train_loss"].to_numpy(float).ravel(), means, rtol=1e-5)
    assert not lean


# -- trainings that end early ------------------------------------------------------------------------------------


class Stopping:
    """Forward hook of a module that does something at one of its calls."""

    def __init__(self, act: Any, number: int) -> None:
        self.act, self.left = act, number

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def acted_on(act: Any, number: int = 7, **options: Any) -> tuple[Any, BaseException | None]:
    """A model in whose training something happens at a step, and what was raised."""
    model = MODELS["VAE"].untrained()
    trainers: list[Any] = []
    look = LambdaCallback(on_train_start=lambda trainer, _: trainers.append(trainer))
    model.module.decoder.register_forward_hook(Stopping(lambda: act(trainers[0]), number))
    try:
        trained(model=model, callbacks=[look], check_val_every_n_epoch=None, **options)
    except BaseException as error:
        return model, error
    return model, None


@pytest.mark.parametrize("options", [{}, {"min_epochs": 3}, {"min_steps": 10}])
def test_a_stop_in_the_middle_of_an_epoch_is_heard_after_the_step(options: dict[str, Any], lean: list[int]) -> None:
    def stop(trainer: Any) -> None:
        thread = threading.Thread(target=setattr, args=(trainer, "should_stop", True))
        thread.start()
        thread.join()

    found, _ = acted_on(stop, **options)
    assert lean
    assert found.trainer.global_step == {"min_epochs": 12, "min_steps": 10}.get(next(iter(options), ""), 7)
    with single_steps():
        assert_same(found, acted_on(stop, **options)[0])


def raising(error: BaseException) -> Any:
    def act(trainer: Any) -> None:
        raise error

    return act


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no room"), ArithmeticError("odd")])
def test_a_fault_in_the_middle_of_an_epoch_leaves_the_same(error: BaseException, lean: list[int]) -> None:
    found, raised = acted_on(raising(type(error)(*error.args)))
    assert lean
    with single_steps():
        expected, known = acted_on(raising(type(error)(*error.args)))
    assert type(raised) is type(known)
    assert str(raised) == str(known)
    assert all(value.equal(found.module.state_dict()[name]) for name, value in expected.module.state_dict().items())


def test_a_loss_that_is_not_finite_is_found_in_its_mini_batch(lean: list[int]) -> None:
    def spoilt() -> tuple[Any, BaseException | None]:
        # the third mini-batch of the second epoch
        return acted_on(lambda trainer: trainer.lightning_module.module.px_r.data.fill_(float("nan")), 7)

    _, raised = spoilt()
    assert lean
    assert isinstance(raised, TrainingDivergedError)
    assert "in epoch 2 of 3, at mini-batch 3 of 4, of cells" in str(raised)
    with single_steps():
        assert str(spoilt()[1]) == str(raised)
