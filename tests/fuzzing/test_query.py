"""Whatever cells a trained model is asked about: an answer for each of them, or an error of ours."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, event, given, settings

from deltavi.errors import DeltaviError
from tests.determinism.snapshot import cells
from tests.fuzzing.strategies import GENES, Made, stories
from tests.fuzzing.test_setup import CASES, EVERY_MODEL, foreign_warnings

pytestmark = pytest.mark.filterwarnings("ignore")
TRAINED: dict[str, Any] = {}


def trained(name: str) -> Any:
    """A model of ordinary cells; hypothesis asks for it many times."""
    if name not in TRAINED:
        n, rng = 48, np.random.default_rng(0)
        counts = rng.poisson(1.5, (n, len(GENES))).astype(np.float32)
        if CASES[name].reads == "logs":
            counts = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).astype(np.float32)
        labels = {key: np.asarray([f"{key}_{i // step % 2}" for i in range(n)], object) for key, step in STEPS.items()}
        columns = {**labels, "total_counts": np.arange(n) + 20.0}
        story = Made(n, tuple(GENES), counts, "float32", "csr", columns, tuple(f"t{i}" for i in range(n)), None)
        adata = story.adata()
        TRAINED[name] = CASES[name].trained(adata)
    return TRAINED[name]


STEPS = {"condition": 1, "cell_type": 2, "batch": 4}


def answers(model: Any, adata: AnnData) -> dict[str, tuple[Any, int]]:
    """What is said of cells, with the number of columns to expect."""
    found: dict[str, tuple[Any, int]] = {"latent": (model.get_latent_representation(adata), model.module.n_latent)}
    if hasattr(model, "impute"):
        found["impute"] = (model.impute(adata), len(GENES))
    if hasattr(model, "predict"):
        found["soft"] = (model.predict(adata, soft=True), len(model.label_names))
        hard = model.predict(adata)
        assert set(hard) <= {*model.label_names, "unassigned"}
        assert hard.index.equals(adata.obs_names)
        if model.has_labels:
            scores = model.get_novelty_scores(adata)
            assert scores.index.equals(adata.obs_names)
    return found


@EVERY_MODEL
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(story=stories())
def test_every_cell_has_an_answer_or_the_error_is_ours(name: str, story: Made) -> None:
    model, adata = trained(name), story.adata()
    before = cells(adata)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = answers(model, adata)
        except DeltaviError as error:
            event(type(error).__name__)
        else:
            event("answered")
            for verb, (values, width) in found.items():
                assert values.shape == (adata.n_obs, width), verb
                assert np.isfinite(np.asarray(values, dtype=float)).all(), verb
                if hasattr(values, "index"):
                    assert values.index.equals(adata.obs_names), verb
    assert not foreign_warnings(caught)
    assert cells(adata) == before
    assert not [key for key in (*adata.obs, *adata.uns) if str(key).startswith("_scvi") and key != story.extra]


@EVERY_MODEL
@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(story=stories(sane=True))
def test_ordinary_cells_are_answered(name: str, story: Made) -> None:
    model = trained(name)
    try:
        answers(model, story.adata())
    except DeltaviError:
        # counts where logarithms are needed, and objects
        assert story.dtype == "object" or CASES[name].reads == "logs"
    else:
        assert story.dtype != "object"
