"""Rows 58 to 60, 69 and 70: training that fails, threads, devices."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from deltavi._errors import (
    DeltaviWarning,
    InputDataError,
    NotTrainedError,
    OutOfMemoryError,
    TrainingDivergedError,
)
from tests.bad_input.bench import N_CELLS, Bench, Case, assert_same, refused, warned
from tests.bad_input.registry import NO_EPOCHS, row
from tests.model import faults

AFTER_TWO = "The model is that of the end of epoch 2, and can be used, saved and trained further."


def stopped(case: Case, model: Any, what: Callable[[Any], None], error: type[BaseException]) -> tuple[Any, str]:
    """Callback and message of a training in which `what` happens in the third epoch."""
    fault = faults.At(2, 1, what)
    with pytest.raises(error) as caught:
        case.train(model, max_epochs=5, callbacks=[fault])
    assert type(caught.value) is error
    return fault, str(caught.value)


def assert_is_of_epoch_two(case: Case, model: Any, fault: Any) -> None:
    """The weights of the last good epoch, and a model that answers, is saved and trained further."""
    assert model.is_trained
    assert not faults.same(fault.weights[0], fault.weights[1])
    assert faults.same(faults.weights_of(model.module), fault.weights[1])
    assert len(model.history["train_loss"]) == 2
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()
    assert np.isfinite(case.ask(model)).all(axis=None)
    case.train(model)
    assert len(model.history["train_loss"]) == 3


def placed(case: Case) -> dict[str, Any]:
    """Settings with which what happens in the third of five epochs is about the whole model."""
    return {"prior_warmup": 0.2} if case.entry.clusters else {}


@row(58, "a loss that becomes NaN", "training stops, says in which mini-batch, and keeps the last good epoch")
def diverging(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    model = case.untrained(adata, **placed(case))
    if not case.has_epochs:
        # there are no steps: what can diverge is the matrix
        adata.X.data[0] = np.nan
        words = ("1 of 40 genes", "set it up again")
        refused(lambda: case.train(model), InputDataError, *words, of=adata)
        assert not model.is_trained
        return
    for value, became in ((float("nan"), "NaN"), (float("inf"), "")):
        model = case.untrained(case.cells(), **placed(case))
        fault, message = stopped(case, model, faults.spoils(value), TrainingDivergedError)
        assert message.startswith(f"The loss became {became}")
        assert re.search(r"in epoch 3 of 5, at mini-batch 3 of \d, of cells 'CELL\d+', 'CELL\d+', 'CELL\d+'", message)
        assert "Lower the learning rate: plan_kwargs={'lr': " in message
        assert message.endswith(AFTER_TWO)
        assert_is_of_epoch_two(case, model, fault)


@row(
    59,
    "an interrupt, or memory that runs out, in training",
    "the model of the last good epoch, and files that are whole",
)
def interrupted(bench: Bench) -> None:
    case = bench.case
    if not case.has_epochs:
        interrupted_fit(bench)
        return
    stops: dict[str, tuple[Callable[[Any], None], type[BaseException], str]] = {
        "memory": (faults.raises(MemoryError()), OutOfMemoryError, "mini-batches of 32 cells. Try batch_size=16"),
        "interrupt": (faults.raises(KeyboardInterrupt()), KeyboardInterrupt, "Training was interrupted."),
    }
    if sys.platform != "win32":
        stops["interrupt"] = (faults.interrupts, KeyboardInterrupt, "Training was interrupted.")
    for what, error, words in stops.values():
        model = case.untrained(case.cells(), **placed(case))
        fault, message = stopped(case, model, what, error)
        assert words in message
        assert message.endswith(AFTER_TWO)
        assert_is_of_epoch_two(case, model, fault)
    # in the first epoch there is nothing to go back to
    model = case.untrained(case.cells(), **placed(case))
    before = faults.weights_of(model.module)
    with pytest.raises(KeyboardInterrupt, match="still untrained"):
        case.train(model, max_epochs=5, callbacks=[faults.At(0, 1, faults.raises(KeyboardInterrupt()))])
    assert faults.same(faults.weights_of(model.module), before)
    with pytest.raises(NotTrainedError):
        case.ask(model)
    checkpointed(bench)


def checkpointed(bench: Bench) -> None:
    """A checkpoint written before the stop is whole, and of the epoch it says."""
    case, folder = bench.case, bench.folder / "checkpoint"
    model = case.untrained(case.cells(), **placed(case))
    with pytest.raises(KeyboardInterrupt):
        stop = faults.At(2, 1, faults.raises(KeyboardInterrupt()))
        case.train(model, max_epochs=5, callbacks=[stop], checkpoint=folder)
    loaded = case.load(folder)
    assert faults.same(faults.weights_of(loaded.module), stop.weights[1])
    assert np.isfinite(case.ask(loaded, case.cells())).all(axis=None)
    assert [path.name for path in bench.folder.iterdir()] == [folder.name]


def interrupted_fit(bench: Bench) -> None:
    """A closed form that does not come to its end leaves what was there before."""
    from deltavi.model import _ppca

    case, model = bench.case, bench.case.untrained(bench.case.cells())
    for error in (KeyboardInterrupt, MemoryError):
        for is_trained in (False, True):
            if is_trained:
                case.train(model)
                before = case.ask(model)

            def fail(*_: Any, error: type[BaseException] = error, **__: Any) -> None:
                raise error

            with bench.monkeypatch.context() as patch, pytest.raises(error):
                patch.setattr(_ppca, "principal_factors", fail)
                case.train(model)
            assert model.is_trained == is_trained
            if is_trained:
                assert_same(case.ask(model), before)
        model = case.untrained(case.cells())


@row(60, "callbacks of the user", "they are called, and those that keep the model safe stay", without=NO_EPOCHS)
def callbacks(bench: Bench) -> None:
    case = bench.case

    class Counter(Callback):
        epochs = 0

        def on_train_epoch_end(self, *_: Any) -> None:
            self.epochs += 1

    for given in ([Counter()], (Counter(),), []):
        model = case.untrained(case.cells(), **placed(case))
        kept = list(given)
        fault = faults.At(2, 1, faults.spoils(float("nan")))
        callbacks = [*given, fault] if isinstance(given, list) else (*given, fault)
        with pytest.raises(TrainingDivergedError, match="end of epoch 2"):
            case.train(model, max_epochs=5, callbacks=callbacks)
        assert list(callbacks) == [*kept, fault]
        assert [counter.epochs for counter in given] == [2] * len(kept)
        assert_is_of_epoch_two(case, model, fault)


@row(69, "several threads that predict at the same time", "each gets its answer; nothing is shared that changes")
def threads(bench: Bench) -> None:
    case, model = bench.case, bench.case.trained
    queries = [case.cells(seed=seed) for seed in range(4)]
    # other genes and sizes, so that an answer meant for another thread would not fit
    queries = [query[: N_CELLS - 10 * i, :: 1 - 2 * (i % 2)].copy() for i, query in enumerate(queries)]
    expected = [case.ask(model, query) for query in queries]
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    weights = faults.weights_of(model.module)
    jobs = [i % len(queries) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: case.ask(model, queries[i]), jobs))
        own = list(pool.map(lambda _: case.ask(model), range(4)))
    for i, answer in zip(jobs, found, strict=True):
        assert_same(answer, expected[i])
    for answer in own:
        assert_same(answer, case.ask(model))
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert faults.same(faults.weights_of(model.module), weights)
    assert not any(key.startswith("_scvi") for query in queries for key in [*query.obs, *query.uns])


def absent_devices() -> list[str]:
    absent = [] if torch.cuda.is_available() else ["cuda", "cuda:1"]
    absent += [f"cuda:{torch.cuda.device_count()}"] if torch.cuda.is_available() else []
    return absent + ([] if torch.backends.mps.is_available() else ["mps"])


@row(70, "no GPU, or a device that is not there", "the CPU, with the same answers")
def devices(bench: Bench) -> None:
    case = bench.case
    on_cpu = case.fitted(case.cells())
    chosen = case.untrained(case.cells())
    case.train(chosen, accelerator="auto")
    tolerance = 0.0 if chosen.device.type == "cpu" else 1e-2
    assert_same(case.ask(chosen), case.ask(on_cpu), atol=tolerance)
    chosen.save(bench.folder / "model")
    loaded = case.load(bench.folder / "model")
    assert loaded.device.type == "cpu"
    expected = case.ask(loaded, case.cells())
    assert absent_devices()
    for device in absent_devices():
        words = (f"no device '{device}'", "on the CPU")
        elsewhere = warned(lambda d=device: case.load(bench.folder / "model", device=d), DeltaviWarning, *words)
        assert elsewhere.device.type == "cpu"
        assert_same(case.ask(elsewhere, case.cells()), expected)
    if torch.cuda.is_available():
        on_gpu = case.load(bench.folder / "model", device="cuda")
        assert on_gpu.device.type == "cuda"
        assert_same(case.ask(on_gpu, case.cells()), expected, atol=1e-3)
