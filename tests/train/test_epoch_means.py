"""Metrics summed over an epoch, and the plan that logs them once, against what scvi-tools logs at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from deltavi.model import ACTINN, LABELVI, MIXVI, VAE
from deltavi.train import ObjectivePlan
from deltavi.train._epoch_means import EpochMeans
from tests.model.conftest import QUIET, SETUP, dense, small_adata

COMPONENTS = ("elbo", "reconstruction_loss", "kl_local", "kl_global")
TRAINING = {"kl_weight", "train_loss", *(f"{name}_train" for name in COMPONENTS)}
VALIDATION = {"validation_loss", *(f"{name}_validation" for name in COMPONENTS)}


class PlanOfScvi(ObjectivePlan):
    """The same plan, logging as scvi-tools does."""

    training_step = TrainingPlan.training_step
    validation_step = TrainingPlan.validation_step


def labelled() -> AnnData:
    """Dense counts: of mini-batches from memory lightning cannot tell the size. A third of the labels is unknown."""
    adata = small_adata()
    adata.X = dense(adata.X)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs_names[::3], "cell_type"] = "Unknown"
    return adata


def untrained(model_class: Any = VAE, adata: AnnData | None = None, **kwargs: Any) -> Any:
    adata = labelled() if adata is None else adata
    known = {} if model_class is VAE else {"unlabeled_category": "Unknown"}
    setup = {"labels_key": "cell_type"} if model_class is ACTINN else SETUP
    model_class.setup_anndata(adata, **setup, **known)
    return model_class(adata, **{"n_hidden": 8, **({} if model_class is ACTINN else {"n_latent": 2}), **kwargs})


def history(model: Any, **kwargs: Any) -> dict[str, pd.DataFrame]:
    options = {"max_epochs": 3, "batch_size": 32, "check_val_every_n_epoch": 1, **QUIET, **kwargs}
    # a schedule of its own would hide what is asked of the learning rate
    options["plan_kwargs"] = {"lr_schedule": "constant", "lr": 1e-3, **kwargs.get("plan_kwargs", {})}
    model.train(**options)
    return dict(model.history)


def epochs(values: pd.DataFrame) -> list[int]:
    assert values.index.name == "epoch"
    return list(values.index)


# -- sums ---------------------------------------------------------------------------------------------------------


def output(n_cells: int, seed: int, *, kl_global: float = 0.0, **extra: Any) -> LossOutput:
    generator = torch.Generator().manual_seed(seed)
    reconstruction, kl_z, kl_l = torch.rand(3, n_cells, generator=generator, dtype=torch.float64)
    loss = (reconstruction + kl_z).mean().requires_grad_()
    return LossOutput(
        loss=loss,
        reconstruction_loss=reconstruction,
        kl_local={"z": kl_z, "l": kl_l},
        kl_global=torch.tensor(kl_global, dtype=torch.float64),
        extra_metrics=extra,
    )


def test_means_are_per_cell_and_the_global_term_per_mini_batch() -> None:
    sizes, means = (5, 3, 1), EpochMeans("train")
    outputs = [
        output(n, i, kl_global=float(i), accuracy=torch.tensor(i / 4, dtype=torch.float64)) for i, n in enumerate(sizes)
    ]
    for one in outputs:
        means.add(one)
    found = means.take(6)
    reconstruction = torch.cat([one.reconstruction_loss["reconstruction_loss"] for one in outputs]).mean()
    kl = torch.cat([one.kl_local["z"] + one.kl_local["l"] for one in outputs]).mean()
    expected = {
        "train_loss": sum(float(one.loss.detach()) * n for one, n in zip(outputs, sizes, strict=True)) / 9,
        "reconstruction_loss_train": reconstruction,
        "kl_local_train": kl,
        "kl_global_train": 1.0,
        "elbo_train": reconstruction + kl + 1.0 / 6,
        "accuracy_train": (0.25 * 3 + 0.5 * 1) / 9,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-12), name
        assert not found[name].requires_grad
        assert found[name].dim() == 0


def test_taking_starts_again() -> None:
    means = EpochMeans("validation")
    assert means.take(10) == {}
    means.add(output(4, 0))
    first = means.take(10)
    assert means.take(10) == {}
    means.add(output(4, 0))
    assert means.take(10) == first


def test_metrics_that_are_plain_numbers_and_metrics_that_come_late() -> None:
    means = EpochMeans("train")
    means.add(output(4, 0, share=0.5))
    means.add(output(4, 1, share=1.0))
    assert float(means.take(None)["share_train"]) == 0.75


def test_totals_of_an_unknown_number_of_cells() -> None:
    for n_cells in (None, 0):
        means = EpochMeans("validation")
        means.add(output(2, 0, kl_global=3.0))
        found = {name: float(value) for name, value in means.take(n_cells).items()}
        local = found["reconstruction_loss_validation"] + found["kl_local_validation"]
        assert found["elbo_validation"] == pytest.approx(local + 3)


# -- against scvi-tools --------------------------------------------------------------------------------------------


EXTRA = {"classification_loss", "accuracy"}
# four mini-batches of 32 cells, and three with one of 20; where cells are drawn again lightning weighs by them too
WHOLE, WITH_TAIL = 128 / 144, 116 / 144


@pytest.mark.parametrize(
    ("model_class", "kwargs", "train_size", "extra"),
    [
        (VAE, {}, WITH_TAIL, set()),
        (VAE, {"gene_likelihood": "nb", "library": "learned"}, WITH_TAIL, set()),
        (ACTINN, {}, WITH_TAIL, EXTRA),
        (LABELVI, {}, WHOLE, EXTRA),
        (MIXVI, {"n_components": 3}, WHOLE, EXTRA),
    ],
)
def test_history_is_that_of_scvi(
    model_class: Any, kwargs: dict[str, Any], train_size: float, extra: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a warm-up, as validation knows no weight but the final one
    options = {"train_size": train_size, "kl_warmup": 0.0, "log_every_n_steps": 1}
    found = history(untrained(model_class, **kwargs), **options)
    monkeypatch.setattr(model_class, "_training_plan_cls", PlanOfScvi)
    expected = history(untrained(model_class, **kwargs), **options)
    names = {f"{name}_{mode}" for name in extra for mode in ("train", "validation")}
    assert set(found) == set(expected) == TRAINING | VALIDATION | names
    for name, values in expected.items():
        assert epochs(found[name]) == epochs(values) == [0, 1, 2], name
        close = {"rtol": 1e-5, "atol": 1e-6, "err_msg": name}
        np.testing.assert_allclose(found[name].to_numpy(float), values.to_numpy(float), **close)


def test_the_weight_of_the_kl_term_rises_as_in_scvi(monkeypatch: pytest.MonkeyPatch) -> None:
    for plan in ({"n_epochs_kl_warmup": 3, "max_kl_weight": 0.7}, {"n_epochs_kl_warmup": None, "n_steps_kl_warmup": 9}):
        options = {"max_epochs": 4, "plan_kwargs": plan, "log_every_n_steps": 1, "train_size": WITH_TAIL}
        found = history(untrained(), **options)
        with monkeypatch.context() as patched:
            patched.setattr(VAE, "_training_plan_cls", PlanOfScvi)
            expected = history(untrained(), **options)
        for name in TRAINING:
            np.testing.assert_allclose(
                found[name].to_numpy(float), expected[name].to_numpy(float), rtol=1e-5, err_msg=name
            )


# -- what a trainer may be asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", ["dense", "csr"])
@pytest.mark.parametrize("model_class", [VAE, LABELVI])
def test_every_step_is_logged_where_it_is_asked_for(model_class: Any, matrix: str) -> None:
    adata = labelled() if matrix == "dense" else small_adata()
    found = history(untrained(model_class, adata), plan_kwargs={"on_step": True}, max_epochs=2, train_size=WHOLE)
    assert list(found["train_loss_step"].index) == list(range(8))
    assert len(found["train_loss_epoch"]) == 2
    assert set(found) >= VALIDATION
    assert np.isfinite(found["train_loss_step"].to_numpy(float)).all()


# scvi-tools writes every step; lightning, at its interval, would write over one of them
STEPS: dict[str, Any] = {"plan_kwargs": {"on_step": True}, "log_every_n_steps": 1000}


def test_steps_make_the_epochs() -> None:
    options = {"train_size": WITH_TAIL, "batch_size": 29}
    steps = history(untrained(), **STEPS, **options)
    once = history(untrained(), **options)
    for name in ("train_loss", "elbo_train", "reconstruction_loss_train", "kl_local_train"):
        np.testing.assert_allclose(steps[f"{name}_epoch"].to_numpy(float), once[name].to_numpy(float), rtol=1e-5)
    in_epochs = steps["train_loss_step"].to_numpy(float).reshape(3, 4).mean(1)
    np.testing.assert_allclose(in_epochs, once["train_loss"].to_numpy(float).ravel(), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_steps": 3}, [0]),
        ({"max_steps": 6}, [0, 1]),
        ({"max_steps": 8}, [0, 1]),
        ({"limit_train_batches": 2}, [0, 1, 2]),
        ({"limit_train_batches": 0.5}, [0, 1, 2]),
    ],
)
def test_an_epoch_that_is_cut_is_logged(options: dict[str, Any], expected: list[int]) -> None:
    found = history(untrained(), train_size=WHOLE, check_val_every_n_epoch=None, **options)
    for name in TRAINING:
        assert epochs(found[name]) == expected, name
        assert np.isfinite(found[name].to_numpy(float)).all()


def test_cut_epochs_are_means_of_what_was_seen() -> None:
    whole = history(untrained(), train_size=WHOLE, **STEPS)["train_loss_step"].to_numpy(float)
    cut = history(untrained(), train_size=WHOLE, max_steps=6)["train_loss"].to_numpy(float).ravel()
    np.testing.assert_allclose(cut, [whole[:4].mean(), whole[4:6].mean()], rtol=1e-5)


def test_a_callback_that_stops_early_leaves_its_epoch_in_the_history() -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= 6

    found = history(untrained(), train_size=WHOLE, callbacks=[Stop()], max_epochs=5)
    assert epochs(found["train_loss"]) == [0, 1]


def test_callbacks_see_the_metrics_at_the_end_of_an_epoch() -> None:
    class Look(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            self.seen.append(float(trainer.callback_metrics["train_loss"]))
            assert set(trainer.callback_metrics) >= TRAINING

    look = Look()
    found = history(untrained(), callbacks=[look])
    np.testing.assert_allclose(look.seen, found["train_loss"].to_numpy(float).ravel())


@pytest.mark.parametrize("monitor", ["validation_loss", "elbo_validation", "elbo_train", "train_loss"])
def test_early_stopping(monitor: str) -> None:
    # nothing falls by so much
    ask = {"early_stopping_min_delta": 1e9, "early_stopping_patience": 2, "early_stopping_monitor": monitor}
    model = untrained()
    found = history(model, early_stopping=True, kl_warmup=0.0, max_epochs=9, **ask)
    assert epochs(found["train_loss"]) == [0, 1, 2]
    assert model.trainer.early_stopping_callback.monitor == monitor


def test_the_learning_rate_falls_on_a_plateau() -> None:
    plan = {"reduce_lr_on_plateau": True, "lr_patience": 0, "lr_threshold": 1e9, "lr_factor": 0.5, "lr": 1e-3}
    model = untrained()
    history(model, plan_kwargs=plan, max_epochs=4)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 8)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])])
def test_validation_every_few_epochs(every: int, expected: list[int]) -> None:
    found = history(untrained(), max_epochs=4, check_val_every_n_epoch=every)
    assert epochs(found["train_loss"]) == [0, 1, 2, 3]
    for name in VALIDATION:
        assert epochs(found[name]) == expected, name


def test_validation_is_of_its_own_epoch_alone() -> None:
    """With a learning rate of zero and no noise every epoch says the same."""
    options = {"plan_kwargs": {"lr": 0.0}, "kl_warmup": 0.0, "train_size": WHOLE}
    model = untrained(posterior="deterministic", dropout_rate=0.0, use_batch_norm="none")
    found = history(model, **options)
    for name in ("validation_loss", "train_loss", "elbo_train", "reconstruction_loss_validation"):
        values = found[name].to_numpy(float).ravel()
        np.testing.assert_allclose(values, values[0], rtol=1e-5, err_msg=name)


# -- the optimiser -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)])
def test_adam_runs_in_one_pass(name: str, expected: type) -> None:
    model = untrained()
    history(model, max_epochs=1, plan_kwargs={"optimizer": name, "lr": 3e-3, "weight_decay": 1e-4, "eps": 0.02})
    (optimizer,) = model.trainer.optimizers
    (group,) = optimizer.param_groups
    assert type(optimizer) is expected
    assert group["fused"]
    assert (group["lr"], group["weight_decay"], group["eps"]) == (3e-3, 1e-4, 0.02)


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_mixed_precision_trains_without_it(likelihood: str) -> None:
    model = untrained(gene_likelihood=likelihood)
    found = history(model, max_epochs=2, precision="bf16-mixed")
    assert not model.trainer.optimizers[0].param_groups[0]["fused"]
    plain = history(untrained(gene_likelihood=likelihood), max_epochs=2)
    np.testing.assert_allclose(found["train_loss"].to_numpy(float), plain["train_loss"].to_numpy(float), rtol=0.02)


def test_gradients_may_be_clipped() -> None:
    found = history(untrained(), max_epochs=1, gradient_clip_val=0.1)
    assert np.isfinite(found["train_loss"].to_numpy(float)).all()
