"""The last good epoch: what is kept, what counts as good, and which cells a mini-batch held."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from deltavi import _keys
from deltavi.errors import TrainingDivergedError
from deltavi.model import ACTINN, LABELVI, VAE
from deltavi.train import LastGoodEpoch, ModuleState, joined_history
from deltavi.train._last_good import not_finite
from deltavi.train._order import cells_of_batch
from tests.model.conftest import QUIET, SETUP, small_adata

NAMES = pd.Index([f"cell {i}" for i in range(6)])


class Tiny(torch.nn.Module):
    """One layer, a buffer of each kind, and a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("steps", torch.tensor(5))
        self.is_placed = False


def trainer(**kwargs: Any) -> SimpleNamespace:
    """What the guard asks of a trainer."""
    known = {"current_epoch": 2, "max_epochs": 9, "num_training_batches": 4, "train_dataloader": None, "logger": None}
    return SimpleNamespace(**{**known, "lightning_module": SimpleNamespace(lr=2e-3), **kwargs})


def run_epoch(guard: LastGoodEpoch, losses: list[float]) -> None:
    guard.on_train_start(trainer(), None)
    guard.on_train_epoch_start(None, None)
    for i, loss in enumerate(losses):
        guard.on_train_batch_end(None, None, {"loss": torch.tensor(loss)}, None, i)
    guard.on_train_epoch_end(None, None)


# -- what is kept ----------------------------------------------------------------------------------------------


def test_a_state_is_a_copy_that_can_be_put_back_and_written_over() -> None:
    module = Tiny()
    state, before = ModuleState(module), {name: value.clone() for name, value in module.state_dict().items()}

    def change() -> None:
        for value in module.state_dict().values():
            value.add_(1)
        module.is_placed = not module.is_placed
        module.eval()

    change()
    state.restore(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.is_placed
    assert not module.training
    change()
    state.note(module, 7)
    change()
    state.restore(module)
    assert all(torch.equal(value, before[name] + 1) for name, value in module.state_dict().items())
    assert (module.is_placed, state.n_epochs) == (True, 7)


def test_each_good_epoch_is_kept_and_a_bad_one_is_not() -> None:
    module = Tiny()
    guard = LastGoodEpoch(module, NAMES)
    for n in (1, 2, 3):
        module.scale.fill_(n)
        run_epoch(guard, [1.0, 2.0])
        assert guard.n_epochs == n
        guard.restore()
        assert module.scale.tolist() == [n] * 3
    module.scale.fill_(99)
    with pytest.raises(TrainingDivergedError):
        run_epoch(guard, [1.0, float("nan")])
    assert guard.n_epochs == 3
    guard.restore()
    assert module.scale.tolist() == [3] * 3
    guard.release()
    module.scale.fill_(0)
    guard.restore()
    assert module.scale.tolist() == [0] * 3
    assert guard.n_epochs == 0


def test_an_interrupt_while_a_state_is_copied_costs_that_epoch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Tiny()
    guard = LastGoodEpoch(module, NAMES)
    for n in (1, 2):
        module.scale.fill_(n)
        run_epoch(guard, [1.0])
    copy, seen = torch.Tensor.copy_, []

    def interrupted(self: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.append(self)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return copy(self, *args)

    module.scale.fill_(3)
    module.layer.weight.data.fill_(3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.Tensor, "copy_", interrupted)
        run_epoch(guard, [1.0])
    guard.restore()
    assert (guard.n_epochs, module.scale.tolist()) == (2, [2] * 3)
    assert not (module.layer.weight == 3).any()


def test_the_device_is_not_asked_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = LastGoodEpoch(Tiny(), NAMES)
    for name in ("item", "tolist", "isfinite", "isnan", "cpu", "to", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} waits for the device"))
    for i in range(5):
        guard.on_train_batch_end(None, None, {"loss": torch.ones(())}, None, i)


# -- what is good ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([1.0, float("nan"), 2.0], "The loss became NaN in epoch 3 of 9, at mini-batch 2 of 4."),
        ([float("inf")], "The loss became infinite in epoch 3 of 9, at mini-batch 1 of 4."),
        ([1.0, float("-inf"), float("nan")], "The loss became infinite in epoch 3 of 9, at mini-batch 2 of 4."),
    ],
)
def test_the_first_loss_that_is_not_finite_is_named(losses: list[float], words: str) -> None:
    with pytest.raises(TrainingDivergedError) as caught:
        run_epoch(LastGoodEpoch(Tiny(), NAMES), losses)
    assert str(caught.value).startswith(words)
    assert "plan_kwargs={'lr': 0.0002}, not 0.002" in str(caught.value)


@pytest.mark.parametrize("name", ["layer.weight", "layer.bias", "scale"])
@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_weights_and_buffers_are_looked_at_where_losses_are_good(name: str, value: float, word: str) -> None:
    module = Tiny()
    guard = LastGoodEpoch(module, NAMES)
    run_epoch(guard, [1.0])
    module.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(TrainingDivergedError) as caught:
        run_epoch(guard, [1.0, 2.0])
    assert str(caught.value).startswith(f"Weights ('{name}') became {word} in epoch 3 of 9, at mini-batch 2 of 4.")


def test_large_weights_are_finite() -> None:
    module = Tiny()
    module.scale.fill_(3e38)
    assert not_finite(module) == []
    module.scale[1] = float("nan")
    assert not_finite(module) == ["scale"]


# -- which cells -----------------------------------------------------------------------------------------------


class Watch(Callback):
    """The cells of each mini-batch, as the guard tells them, beside the counts that the mini-batch holds."""

    def __init__(self) -> None:
        self.told: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        again = (
            batch[_keys.DRAWN_AGAIN].numpy().ravel() > 0 if _keys.DRAWN_AGAIN in batch else np.zeros(len(batch["X"]))
        )
        # those drawn again are thinned
        self.counts.append(batch["X"].numpy()[again == 0])
        self.told.append(cells_of_batch(trainer.train_dataloader, batch_idx))


@pytest.mark.parametrize("model_class", [VAE, ACTINN, LABELVI])
def test_the_cells_of_a_mini_batch_are_those_it_holds(model_class: Any) -> None:
    adata, watch = small_adata(), Watch()
    model_class.setup_anndata(adata, **({"labels_key": "cell_type"} if model_class is ACTINN else SETUP))
    model = model_class(adata, n_hidden=8)
    model.train(max_epochs=2, batch_size=32, train_size=0.8, callbacks=[watch], **QUIET)
    assert len(watch.told) == 2 * model.trainer.num_training_batches
    for cells, held in zip(watch.told, watch.counts, strict=True):
        told, rows = ({row.tobytes() for row in counts} for counts in (adata.X[cells].toarray(), held))
        assert rows <= told
        assert rows == told or model_class is LABELVI
        assert set(cells) <= set(model.train_indices)


def test_cells_of_an_unknown_loader_are_not_named() -> None:
    for loader in (None, torch.utils.data.DataLoader(list(range(4)), batch_size=2)):
        assert len(cells_of_batch(loader, 0)) == 0


# -- histories -------------------------------------------------------------------------------------------------


def frame(values: list[float], index: str = "epoch") -> pd.DataFrame:
    return pd.DataFrame({"loss": values}, index=pd.RangeIndex(len(values), name=index))


def test_the_history_ends_with_the_last_good_epoch() -> None:
    guard = LastGoodEpoch(Tiny(), NAMES)
    assert guard.history() is None
    run_epoch(guard, [1.0])
    assert guard.history() is None
    logged = {"loss": frame([3.0, 2.0]), "loss_step": frame([1.0, 2.0, 3.0], "step")}
    guard.on_train_start(trainer(logger=SimpleNamespace(history=logged)), None)
    found = guard.history()
    assert found["loss"].index.tolist() == [0]
    assert len(found["loss_step"]) == 3
    # the logger may go on with its own
    logged["loss_step"].iloc[0] = 7.0
    assert found["loss_step"].iloc[0, 0] == 1.0


@pytest.mark.parametrize(
    ("before", "new", "expected"),
    [
        (None, None, None),
        (None, {"a": [1.0]}, {"a": [1.0]}),
        ({}, {"a": [1.0]}, {"a": [1.0]}),
        ({"a": [1.0]}, None, {"a": [1.0]}),
        ({"a": [1.0, 2.0], "b": [5.0]}, {"a": [3.0], "c": [7.0]}, {"a": [1.0, 2.0, 3.0], "b": [5.0], "c": [7.0]}),
    ],
)
def test_histories_are_joined_and_lose_nothing(before: Any, new: Any, expected: Any) -> None:
    def frames(values: Any) -> Any:
        return None if values is None else {name: frame(column) for name, column in values.items()}

    joined = joined_history(frames(before), frames(new))
    if expected is None:
        assert joined is None
        return
    assert joined.keys() == expected.keys()
    for name, values in joined.items():
        found = frame(expected[name])
        if before and name not in before:
            # a metric that is new begins where the first training ended
            found.index += max(map(len, before.values()))
        pd.testing.assert_frame_equal(values, found, check_index_type=False)
