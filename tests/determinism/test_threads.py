"""Threads that ask, train and load at once get what they would get one after the other."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData

from deltavi._random import isolated_randomness
from deltavi.errors import DeltaviWarning
from deltavi.model import MIXVI, SCGEN, VAE
from tests.determinism.cases import CASES, SLOW, Case, counts, own_verbs
from tests.determinism.snapshot import equal, weights
from tests.model.conftest import QUIET
from tests.models import SMALL

N_THREADS = 8
# pandas swaps filters of warnings without regard to threads: which of them hold inside a thread is a matter of luck
pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def interleaved() -> Iterator[None]:
    """Let Python change threads a hundred times as often as usual, so that a race is met."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call gives, all begun at the same moment in threads of their own; an error is raised here."""
    everyone = threading.Event()
    begun = [threading.Event() for _ in calls]
    answers, errors = [None] * len(calls), []

    def run(i: int) -> None:
        begun[i].set()
        everyone.wait(300)
        try:
            answers[i] = calls[i]()
        except BaseException as error:
            errors.append(error)

    def started(i: int) -> threading.Thread:
        thread = threading.Thread(target=run, args=(i,), daemon=True)
        thread.start()
        return thread

    threads = [started(i) for i in range(len(calls))]
    for i, event in enumerate(begun):
        # where coverage is measured a thread that cannot install its tracer ends before it has begun
        for _ in range(10):
            if event.wait(30):
                break
            threads[i] = started(i)
        assert event.is_set(), "a thread does not begin"
    with interleaved():
        everyone.set()
        for thread in threads:
            thread.join(300)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    if errors:
        raise errors[0]
    return answers


def global_state() -> list[Any]:
    numpy_state = np.random.get_state()
    return [random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()]


@pytest.fixture(scope="module", params=CASES)
def fit(request: pytest.FixtureRequest) -> tuple[Case, Any]:
    case = CASES[request.param]
    return case, case.trained()


# -- one model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["of different cells", "of the same cells", "of its own cells"])
def test_threads_share_a_model(fit: tuple[Case, Any], asked: str) -> None:
    case, model = fit
    verbs = own_verbs(case)
    queries: list[AnnData | None] = [case.data(1 + i) for i in range(N_THREADS)]
    if asked != "of different cells":
        queries = [queries[0] if asked == "of the same cells" else None] * N_THREADS
    fast = [name for name in verbs if name not in SLOW]
    chosen = [*SLOW, *fast * N_THREADS][:N_THREADS] if case.predicts and queries[0] is not queries[1] else fast
    pairs = list(zip((chosen * N_THREADS)[:N_THREADS], queries, strict=True))
    expected, before = [verbs[name](model, query) for name, query in pairs], global_state()
    found = at_once([lambda name=name, query=query: verbs[name](model, query) for name, query in pairs])
    for (name, _), value, known in zip(pairs, found, expected, strict=True):
        assert equal(value, known), name
    assert global_state() == before


def test_threads_draw_by_their_own_seeds() -> None:
    """There is one global generator of each kind: without a lock a thread draws from what another seeded."""

    def drawn(seed: int) -> list[float]:
        found: list[float] = []
        with isolated_randomness(seed):
            for _ in range(5):
                found += [random.random(), float(np.random.random()), float(torch.rand(1))]
                time.sleep(1e-3)  # another thread's turn, if it can have it
        return found

    expected, before = [drawn(seed) for seed in range(N_THREADS)], global_state()
    assert at_once([lambda s=s: drawn(s) for s in range(N_THREADS)]) == expected
    assert global_state() == before


# -- several models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["VAE", "ACTINN", "MIXVI"])
def test_models_are_made_and_trained_at_once(name: str) -> None:
    case = CASES[name]

    def trained(seed: int) -> dict[str, np.ndarray]:
        return weights(case.trained(epochs=2, seed=seed))

    seeds = (1, 2, 3)
    expected, before = [trained(seed) for seed in seeds], global_state()
    found = at_once([lambda seed=seed: trained(seed) for seed in seeds])
    for value, known in zip(found, expected, strict=True):
        assert value.keys() == known.keys()
        assert all(equal(value[key], known[key]) for key in known)
    assert global_state() == before


def test_one_thread_predicts_while_another_trains() -> None:
    asked, query = CASES["LABELVI"].trained(), counts(1)
    latent, labels = asked.get_latent_representation(query), asked.predict(query)
    expected, before = weights(CASES["SCGEN"].trained(epochs=3)), global_state()
    found = at_once(
        [
            lambda: weights(CASES["SCGEN"].trained(epochs=3)),
            lambda: [(asked.get_latent_representation(query), asked.predict(query)) for _ in range(20)],
        ]
    )
    assert all(equal(found[0][key], expected[key]) for key in expected)
    assert all(equal(z, latent) and named.equals(labels) for z, named in found[1])
    assert global_state() == before


def test_models_that_were_set_up_on_one_anndata_answer_at_once() -> None:
    """What is a batch to one is a label to the other, in the same columns."""
    adata = counts()
    setups = [{"batch_key": "batch", "labels_key": "cell_type"}, {"batch_key": "cell_type", "labels_key": "batch"}]
    models = []
    for cls, setup in [(VAE, setups[0]), (SCGEN, setups[1]), (VAE, setups[1]), (MIXVI, {"batch_key": "condition"})]:
        cls.setup_anndata(
            adata, **setup, categorical_covariate_keys=["condition" if "labels_key" in setup else "batch"]
        )
        models.append(cls(adata, **SMALL))
        models[-1].train(max_epochs=1, batch_size=32, **QUIET)
    expected = [model.impute() for model in models]
    for _ in range(5):
        found = at_once([model.impute for model in models] * 2)
        for value, known in zip(found, expected * 2, strict=True):
            assert equal(value, known)
    # a filter that silences this package for a moment would stay, were it swapped while pandas swaps its own
    assert not [entry for entry in warnings.filters if issubclass(entry[2], DeltaviWarning)]


def test_models_are_loaded_and_asked_at_once(tmp_path: Path) -> None:
    names = list(CASES)
    for name in names:
        CASES[name].trained().save(tmp_path / name)

    def answer(name: str) -> np.ndarray:
        case = CASES[name]
        return np.asarray(case.model_class.load(tmp_path / name).get_latent_representation(case.data(1)))

    expected, before = [answer(name) for name in names], global_state()
    for value, known in zip(at_once([lambda name=name: answer(name) for name in names]), expected, strict=True):
        assert equal(value, known)
    assert global_state() == before


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_thread_may_seed_within_what_it_seeded() -> None:
    with isolated_randomness(1):
        first = torch.rand(1)
        with isolated_randomness(2):
            torch.rand(1)
        second = torch.rand(1)
    with isolated_randomness(1):
        assert torch.equal(torch.cat([first, second]), torch.rand(2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_does_not_wait_for_a_thread_it_has_not() -> None:
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with isolated_randomness(0):
            inside.set()
            done.wait(60)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert inside.wait(60)
    child = os.fork()
    if not child:
        # without a fresh lock this would last for ever, and the alarm ends the process
        signal.alarm(20)
        with isolated_randomness(0):
            os._exit(0)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join(60)
    assert os.waitstatus_to_exitcode(status) == 0
