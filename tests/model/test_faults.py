"""Training that fails or is interrupted leaves a model of its last good epoch, and says so."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from deltavi.errors import (
    DeltaviError,
    MixtureWarning,
    NotTrainedError,
    OutOfMemoryError,
    TrainingDivergedError,
)
from deltavi.model._faults import finish, is_memory
from tests.model.faults import CASES, PERTURBATION, At, interrupts, raises, same, spoils, train, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::deltavi.errors.MixtureWarning")
every_model = pytest.mark.parametrize("name", list(CASES))
AFTER_TWO = "The model is that of the end of epoch 2, and can be used, saved and trained further."
NO_RAM = (
    "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)
# what happens in the third epoch, the class that is raised, what it says first, and that of its cause
FAULTS: dict[str, tuple[Callable[[Any], None], type[BaseException], str, type[BaseException] | None]] = {
    "raised": (raises(KeyboardInterrupt()), KeyboardInterrupt, "Training was interrupted.", None),
    "NaN": (spoils(float("nan")), TrainingDivergedError, "The loss became NaN in epoch 3 of 5, at mini-batch 3", None),
    "infinite": (spoils(float("inf")), TrainingDivergedError, "The loss became", None),
    "GPU": (
        raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        OutOfMemoryError,
        "Memory ran out in training with mini-batches of 32 cells. Try batch_size=16",
        torch.OutOfMemoryError,
    ),
    "Python": (raises(MemoryError()), OutOfMemoryError, "Memory ran out", MemoryError),
    "torch": (raises(RuntimeError(NO_RAM)), OutOfMemoryError, "Memory ran out", RuntimeError),
}
if sys.platform != "win32":
    FAULTS["signal"] = (interrupts, KeyboardInterrupt, "Training was interrupted.", None)


@pytest.fixture(autouse=True)
def at_a_keyboard() -> Iterator[None]:
    """A shell starts what runs in its background deaf to interrupts; listen to them all the same."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopped(model: Any, what: Any, error: type[BaseException], *, epoch: int = 2, **kwargs: Any) -> tuple[At, Any]:
    """Callback and error of a training in which `what` happens after the second mini-batch of `epoch`."""
    fault = At(epoch, 1, what)
    with pytest.raises(error) as caught:
        train(model, fault, **kwargs)
    return fault, caught.value


def assert_good(name: str, model: Any, n_epochs: int) -> None:
    """A trained model whose parts fit each other."""
    case = CASES[name]
    assert model.is_trained
    assert not model.module.training
    assert len(model.history["train_loss"]) == n_epochs
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()
    assert len(model.train_indices) + len(model.validation_indices) + len(model.test_indices) == model.adata.n_obs
    answers = case.answers(model)
    assert all(np.isfinite(values).all() for values in answers.values())
    # what is kept of the training cells is of these weights
    finish(model)
    assert same(case.answers(model), answers, atol=1e-6)


# -- after good epochs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(FAULTS))
def test_every_fault_leaves_the_last_good_epoch_and_a_clear_error(fault: str) -> None:
    what, error, words, cause = FAULTS[fault]
    model = CASES["VAE"].untrained()
    callback, caught = stopped(model, what, error)
    assert str(caught).startswith(words)
    assert str(caught).endswith(AFTER_TWO)
    assert (None if caught.__cause__ is None else type(caught.__cause__)) == cause
    assert same(weights_of(model.module), callback.weights[1])
    assert not same(callback.weights[0], callback.weights[1])
    assert_good("VAE", model, 2)


@every_model
@pytest.mark.parametrize("fault", ["raised", "NaN"])
def test_every_model_stays_usable(name: str, fault: str) -> None:
    what, error, _, _ = FAULTS[fault]
    model = CASES[name].untrained()
    callback, caught = stopped(model, what, error)
    assert str(caught).endswith(AFTER_TWO)
    assert same(weights_of(model.module), callback.weights[1])
    assert_good(name, model, 2)
    train(model, max_epochs=1)
    assert_good(name, model, 3)


def test_the_cells_and_the_rate_of_a_divergence_are_told() -> None:
    model = CASES["VAE"].untrained()
    _, caught = stopped(model, spoils(float("nan")), TrainingDivergedError, plan_kwargs={"lr": 3e-3})
    named = re.findall("'(CELL[0-9]+)'", str(caught))
    assert len(named) == 3
    assert set(named) <= set(model.adata.obs_names[model.train_indices])
    assert "plan_kwargs={'lr': 0.0003}, not 0.003" in str(caught)


def test_a_rate_that_is_too_high_diverges() -> None:
    model = CASES["VAE"].untrained()
    with pytest.raises(TrainingDivergedError, match=r"epoch 1 of 5, at mini-batch 2 of 4.*Lower the learning rate"):
        train(model, plan_kwargs={"lr": 1e30, "lr_schedule": "constant"})
    assert not model.is_trained
    train(model)
    assert_good("VAE", model, 5)


def test_weights_of_the_last_step_are_looked_at() -> None:
    model = CASES["VAE"].untrained()
    last = At(1, 3, spoils(float("nan")))
    with pytest.raises(TrainingDivergedError, match=r"^Weights \('.*'\) became NaN in epoch 2 of 5, at mini-batch 4"):
        train(model, last)
    assert same(weights_of(model.module), last.weights[0])
    assert_good("VAE", model, 1)


def test_an_error_that_follows_from_weights_is_a_divergence_with_that_error_as_its_cause() -> None:
    def spoil_and_fail(trainer: Any) -> None:
        spoils(float("nan"))(trainer)
        raise ValueError("found invalid values")

    model = CASES["VAE"].untrained()
    _, caught = stopped(model, spoil_and_fail, TrainingDivergedError)
    assert str(caught.__cause__) == "found invalid values"
    assert str(caught).startswith("Weights (")
    assert_good("VAE", model, 2)


def test_any_other_error_comes_as_it_is_with_a_note() -> None:
    model, mistake = CASES["VAE"].untrained(), ZeroDivisionError("a callback's own")
    _, caught = stopped(model, raises(mistake), ZeroDivisionError)
    assert caught is mistake
    assert caught.__notes__ == [AFTER_TWO]
    assert_good("VAE", model, 2)


def test_a_callback_may_end_the_program() -> None:
    _, caught = stopped(CASES["VAE"].untrained(), raises(SystemExit(3)), SystemExit)
    assert caught.code == 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_keyboard_interrupts_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    stopped(CASES["VAE"].untrained(), interrupts, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("batch_size", "smaller"), [(33, 16), (3, 1)])
def test_half_the_batch_is_suggested(batch_size: int, smaller: int) -> None:
    model = CASES["VAE"].untrained()
    error = raises(MemoryError())
    _, caught = stopped(model, error, OutOfMemoryError, epoch=0, batch_size=batch_size)
    assert f"mini-batches of {batch_size} cells. Try batch_size={smaller}," in str(caught)
    assert isinstance(caught, MemoryError)
    assert isinstance(caught, DeltaviError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_known_by_what_they_say(error: Exception, expected: bool) -> None:
    assert is_memory(error) == expected


# -- in the first epoch --------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("fault", ["raised", "NaN"])
def test_a_fault_in_the_first_epoch_leaves_a_model_as_before(name: str, fault: str) -> None:
    what, error, _, _ = FAULTS[fault]
    case = CASES[name]
    model, fresh = case.untrained(), case.untrained()
    _, caught = stopped(model, what, error, epoch=0)
    assert str(caught).endswith("No epoch was finished: the model is still untrained.")
    assert not model.is_trained
    assert model.history is None
    with pytest.raises(NotTrainedError):
        model.get_latent_representation()
    train(model)
    train(fresh)
    assert same(weights_of(model.module), weights_of(fresh.module))
    assert same(case.answers(model), case.answers(fresh))


@every_model
def test_a_fault_in_the_first_epoch_of_further_training_changes_nothing(name: str) -> None:
    case = CASES[name]
    model = case.untrained()
    train(model)
    before, history, answers = weights_of(model.module), dict(model.history), case.answers(model)
    _, caught = stopped(model, raises(KeyboardInterrupt()), KeyboardInterrupt, epoch=0, seed=5)
    assert str(caught).endswith("No epoch was finished: the model is as before.")
    assert same(weights_of(model.module), before)
    assert same(case.answers(model), answers)
    assert model.history.keys() == history.keys()
    assert all(values.equals(history[key]) for key, values in model.history.items())
    assert_good(name, model, 5)


def test_an_argument_that_the_trainer_refuses_changes_nothing() -> None:
    model = CASES["VAE"].untrained()
    before, mode = weights_of(model.module), model.module.training
    with pytest.raises(TypeError, match="no_such_argument"):
        train(model, no_such_argument=1)
    assert same(weights_of(model.module), before)
    assert model.module.training == mode
    train(model)


# -- further training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["raised", "NaN"])
def test_further_training_counts_its_good_epochs_on(fault: str) -> None:
    what, error, _, _ = FAULTS[fault]
    model = CASES["LABELVI"].untrained()
    train(model)
    # the mini-batches of an epoch that is not finished have been validated in an earlier one
    callback, caught = stopped(model, what, error, seed=5, check_val_every_n_epoch=1)
    assert str(caught).endswith(AFTER_TWO)
    assert same(weights_of(model.module), callback.weights[1])
    assert model.history["train_loss"].index.tolist() == list(range(7))
    assert_good("LABELVI", model, 7)


def test_validation_of_a_bad_epoch_is_not_in_the_history() -> None:
    model = CASES["VAE"].untrained()
    stopped(model, spoils(float("nan")), TrainingDivergedError, check_val_every_n_epoch=1)
    assert model.history["validation_loss"].index.tolist() == [0, 1]
    assert np.isfinite(model.history["validation_loss"].to_numpy(float)).all()


def test_an_epoch_counts_before_a_callback_ends_training_with_it() -> None:
    class AtItsEnd(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise KeyboardInterrupt

    model = CASES["VAE"].untrained()
    with pytest.raises(KeyboardInterrupt, match="end of epoch 1"):
        train(model, AtItsEnd())
    assert model.is_trained


def test_components_that_were_not_placed_are_placed_with_a_warning() -> None:
    model = CASES["MIXVI"].untrained(prior_warmup=0.9)
    with pytest.warns(MixtureWarning, match="before components were placed"):
        stopped(model, raises(KeyboardInterrupt()), KeyboardInterrupt)
    assert_good("MIXVI", model, 2)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
def test_the_run_after_a_collapse_may_fail_too(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltavi.model._mixture_training.has_collapsed", lambda self: self.usage_ is not None)

    class SecondRun(Callback):
        n_starts = 0

        def on_train_start(self, *_: Any) -> None:
            self.n_starts += 1
            if self.n_starts == 2:
                raise fault("second")

    model, fresh = CASES["MIXVI"].untrained(), CASES["MIXVI"].untrained()
    with pytest.raises(fault):
        train(model, SecondRun())
    assert not model.is_trained
    assert same(weights_of(model.module), weights_of(fresh.module))


# -- what a model keeps of its training cells ----------------------------------------------------------------


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("in_training", [True, False])
def test_verbs_say_what_is_missing_where_the_end_of_training_fails(
    in_training: bool, stop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CASES["LABELVI"].untrained()
    train(model)
    monkeypatch.setattr(model, "calibrate", lambda: raises(stop("no more"))(None))
    monkeypatch.setattr("deltavi.model._mean_responses.encoded", lambda *_: raises(stop("no more"))(None))
    expected = ZeroDivisionError if in_training and stop is MemoryError else stop
    callbacks = [At(2, 1, raises(ZeroDivisionError()))] if in_training else []
    with pytest.raises(expected) as caught:
        train(model, *callbacks, seed=5)
    monkeypatch.undo()
    if expected is ZeroDivisionError:
        assert caught.value.__notes__[0].endswith("training cells could not be computed: no more")
    assert model.is_trained
    assert np.isfinite(model.get_latent_representation()).all()
    with pytest.raises(DeltaviError, match=r"call calibrate\(\)"):
        model.predict()
    with pytest.raises(DeltaviError, match="train it again"):
        model.predict_perturbation(**PERTURBATION)
    model.calibrate()
    model.predict()


def test_copies_are_let_go_of_when_training_ends() -> None:
    model = CASES["VAE"].untrained()
    train(model)
    (guard,) = (callback for callback in model.trainer.callbacks if type(callback).__name__ == "LastGoodEpoch")
    assert all(value is None for value in (guard._kept, guard._spare, guard._trainer))
    assert guard._losses == []
