"""One seed, one model, bit for bit: whatever else was drawn, in whatever process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
import torch

from tests.determinism.cases import CASES, SLOW, Case, own_verbs
from tests.determinism.snapshot import equal, weights

# a mixture that was trained for a moment knows little of w
pytestmark = pytest.mark.filterwarnings("ignore:w says:deltavi.errors.MixtureWarning")
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# closed forms draw nothing
SEEDED = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.draws], ids=[name for name, c in CASES.items() if c.draws]
)
ROOT = Path(__file__).resolve().parents[2]


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found.keys() == expected.keys() and all(equal(found[name], expected[name]) for name in expected)


def digest(case: Case) -> str:
    """Checksum of weights, buffers, history, and the answers to other cells."""
    model, query = case.trained(), case.data(1)
    parts = {
        **weights(model),
        **{name: verb(model, query) for name, verb in own_verbs(case).items() if name not in SLOW},
    }
    found = hashlib.sha256()
    for name, values in sorted(parts.items()):
        array = np.asarray(values)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@EVERY_CASE
def test_one_seed_one_model(case: Case) -> None:
    model, query = case.trained(epochs=2, seed=5), case.data(1)
    expected = weights(model)
    assert any(name.startswith("history ") for name in expected)
    # whatever state the global generators are in, and other models were made between
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    case.trained(seed=6)
    again = case.trained(epochs=2, seed=5)
    assert same(weights(again), expected)
    for name, verb in own_verbs(case).items():
        first = verb(model, query)
        random.random(), np.random.random(3), torch.rand(3)
        assert equal(verb(model, query), first), name
        assert equal(verb(again, query), first), name


@SEEDED
def test_another_seed_another_model(case: Case) -> None:
    first, other = (weights(case.trained(seed=seed)) for seed in (5, 6))
    assert not equal(first["history train_loss"], other["history train_loss"])
    # maps that start at zero may still be there after an epoch
    moved = [name for name in first if name.endswith(".weight") and first[name].ndim == 2 and first[name].any()]
    trained = [name for name in moved if other[name].any()]
    assert trained
    assert not any(equal(first[name], other[name]) for name in trained)


@SEEDED
def test_a_seed_of_training_is_apart_from_that_of_the_weights(case: Case) -> None:
    models = []
    for seed in (1, 1, 2):
        models.append(case.made(case.data(), seed=4))
        models[-1].train(
            max_epochs=1, batch_size=32, seed=seed, **case.training, accelerator="cpu", enable_progress_bar=False
        )
    first, again, other = (weights(model) for model in models)
    assert same(again, first)
    assert not same(other, first)


def test_another_process_makes_the_same_models() -> None:
    """With another order of sets, and other generators."""
    code = (
        "import json, random, numpy, torch, warnings; warnings.simplefilter('ignore')\n"
        "random.seed(3); numpy.random.seed(3); torch.manual_seed(3); torch.set_num_threads(1)\n"
        "from tests.determinism.cases import CASES\n"
        "from tests.determinism.test_seeds import digest\n"
        "print('\\n' + json.dumps({name: digest(case) for name, case in CASES.items()}))"
    )
    here = hash("deltavi")
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", f"assert hash('deltavi') != {here}\n{code}"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found == {name: digest(case) for name, case in CASES.items()}


# Python 3.12 and newer warn of forking where there are threads, which torch's loaders do
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", ["VAE", "ACTINN", "MIXVI"])
def test_workers_that_load_cells_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, query = CASES[name], CASES[name].data(1)
    model = case.trained()
    latent = model.get_latent_representation(query)
    before = scvi.settings.dl_num_workers
    try:
        scvi.settings.dl_num_workers = 1
        elsewhere = case.trained()
        assert same(weights(elsewhere), weights(model))
        assert equal(elsewhere.get_latent_representation(query), latent)
    finally:
        scvi.settings.dl_num_workers = before
