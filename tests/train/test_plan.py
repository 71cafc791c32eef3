"""Splits, schedules and the training plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi._random import isolated_randomness
from deltavi.errors import DeltaviError
from deltavi.model.recipe import EPOCHS_RANGE, default_epochs
from deltavi.module import VAE
from deltavi.train import ObjectivePlan, split_cells


@given(
    n_cells=st.integers(4, 700),
    train_size=st.floats(0.5, 1.0),
    batch_size=st.integers(2, 128),
    seed=st.integers(0, 100),
)
@settings(max_examples=150, deadline=None)
def test_a_split_is_a_partition_without_a_tail_of_one(
    n_cells: int, train_size: float, batch_size: int, seed: int
) -> None:
    if np.ceil(train_size * n_cells) < 3:
        return
    ask = {"train_size": train_size, "validation_size": None, "batch_size": batch_size}
    split = split_cells(n_cells, **ask, generator=np.random.default_rng(seed))
    together = np.concatenate(split.as_external_indexing())
    assert sorted(together) == list(range(n_cells))
    if len(split.train) > batch_size >= 3:
        assert len(split.train) % batch_size not in (1, 2)
    again = split_cells(n_cells, **ask, generator=np.random.default_rng(seed))
    np.testing.assert_array_equal(split.train, again.train)


def test_shares_are_kept() -> None:
    split = split_cells(1000, train_size=0.7, validation_size=0.2, batch_size=100, generator=np.random.default_rng(0))
    assert [len(part) for part in split.as_external_indexing()] == [700, 200, 100]


@pytest.mark.parametrize(("train_size", "validation_size"), [(0.0, None), (1.2, None), (0.9, 0.3), (-0.1, None)])
def test_senseless_shares(train_size: float, validation_size: float | None) -> None:
    with pytest.raises(DeltaviError, match="size"):
        split_cells(
            100,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=10,
            generator=np.random.default_rng(0),
        )


def test_epochs_fall_as_cells_grow_within_their_range() -> None:
    epochs = [default_epochs(n, 128) for n in (10, 1_000, 10_000, 1_000_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (EPOCHS_RANGE[1], EPOCHS_RANGE[0])


@pytest.mark.parametrize(("n_cells", "expected"), [(40, 400), (300, 167), (2_000, 50), (5_000, 35), (50_000, 20)])
def test_epochs_stay_below_those_that_learn_cells_by_heart_where_they_make_steps_enough(
    n_cells: int, expected: int
) -> None:
    assert default_epochs(n_cells, 128, most_epochs=50) == expected


def test_an_unknown_schedule() -> None:
    with pytest.raises(DeltaviError, match="lr_schedule"):
        ObjectivePlan(VAE(5), lr_schedule="cosine")


def test_the_staircase_falls_by_a_twentieth_every_thousand_steps() -> None:
    plan = ObjectivePlan(VAE(5), lr_schedule="staircase", lr=1e-4)
    config = plan.configure_optimizers()
    assert config["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(2001):
        rates.append(config["optimizer"].param_groups[0]["lr"])
        config["optimizer"].step()
        config["lr_scheduler"]["scheduler"].step()
    assert set(rates[:1000]) == {1e-4}
    np.testing.assert_allclose(rates[1000:2000], 0.95e-4)
    assert rates[2000] == pytest.approx(0.95**2 * 1e-4)


@pytest.mark.parametrize(("name", "kind"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)])
@pytest.mark.parametrize(("precision", "fused"), [(None, True), ("32-true", True), ("16-mixed", False)])
def test_adam_takes_one_pass_in_full_precision(
    monkeypatch: pytest.MonkeyPatch,
    name: Literal["Adam", "AdamW"],
    kind: type[torch.optim.Optimizer],
    precision: str | None,
    fused: bool,
) -> None:
    plan = ObjectivePlan(VAE(5), optimizer=name, lr=2e-3, eps=0.02, weight_decay=1e-5)
    if precision is not None:
        monkeypatch.setattr(ObjectivePlan, "trainer", SimpleNamespace(precision=precision))
    optimizer = plan.get_optimizer_creator()(plan.module.parameters())
    assert type(optimizer) is kind
    asked = {key: optimizer.defaults[key] for key in ("lr", "eps", "weight_decay", "fused")}
    assert asked == {"lr": 2e-3, "eps": 0.02, "weight_decay": 1e-5, "fused": fused}


def test_another_optimizer_is_made_as_asked() -> None:
    plan = ObjectivePlan(VAE(5), optimizer="Custom", optimizer_creator=torch.optim.SGD)
    assert isinstance(plan.configure_optimizers()["optimizer"], torch.optim.SGD)
    plan.optimizer_name = "another"
    with pytest.raises(ValueError, match="not understood"):
        plan.get_optimizer_creator()


def test_the_plan_overrides_public_methods_of_scvi_only() -> None:
    of_scvi = {name for cls in ObjectivePlan.__mro__[1:] for name in vars(cls)}
    private = {name for name in vars(ObjectivePlan) if name.startswith("_") and not name.startswith("__")}
    assert not private & of_scvi


def test_validation_watches_the_objective_at_the_final_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    module = VAE(5, n_hidden=8, n_latent=2, dropout_rate=0.0).eval()
    plan = ObjectivePlan(module, max_kl_weight=0.3, n_epochs_kl_warmup=10)
    logged = {}
    monkeypatch.setattr(plan, "log", lambda name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(ObjectivePlan, "use_sync_dist", False)
    x = torch.poisson(torch.full((6, 5), 2.0))
    batch = {"X": x, "batch": torch.zeros(6, 1), "labels": torch.zeros(6, 1)}
    with torch.no_grad():
        torch.manual_seed(0)
        plan.validation_step(batch, 0)
        plan.on_validation_epoch_end()
        torch.manual_seed(0)
        _, _, expected = module(batch, loss_kwargs={"kl_weight": 0.3})
    torch.testing.assert_close(logged["validation_loss"], expected.loss)


def test_isolated_randomness_is_seeded_and_leaves_no_trace() -> None:
    import random

    before = (np.random.get_state()[1].copy(), torch.random.get_rng_state(), random.getstate())
    drawn = []
    for _ in range(2):
        with isolated_randomness(5):
            drawn.append((float(torch.rand(1)), float(np.random.rand()), random.random()))
    assert drawn[0] == drawn[1]
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.random.get_rng_state())
    assert before[2] == random.getstate()
    with pytest.raises(ZeroDivisionError), isolated_randomness(5):
        np.random.rand()
        raise ZeroDivisionError
    assert np.array_equal(before[0], np.random.get_state()[1])
