"""Predictions by compiled kernels: to the bit those of SciPy, and no more work than is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData, read_h5ad
from scipy import sparse

import deltavi
from deltavi.kernels import compiled, kernels
from deltavi.model import SCGEN
from deltavi.model._decoding import CellDecoder
from deltavi.model._empirical_response import MatchedCells, Matching
from deltavi.model._training_means import STRETCHES, stretched
from deltavi.perturbation.estimators import Shift
from deltavi.testing._cells import SETUP, small_adata
from tests.model.conftest import train

ASKED = {"control": "control", "perturbation": "stimulated"}
QUESTIONS: dict[str, dict[str, Any]] = {
    "cells": {},
    "another seed": {"seed": 2**32 - 1},
    "mean": {"output": "mean"},
    "interval": {"n_samples": 4},
    "independent": {"draws": "independent"},
    "without evidence": {"empirical_weight": 0.0},
}


@pytest.fixture(autouse=True)
def with_kernels() -> None:
    if kernels("quantiles") is None or kernels("draws") is None:
        pytest.skip("numba is not there, or switched off")


@pytest.fixture(scope="module")
def kang(data_path: Any) -> AnnData:
    """A few cells and genes of the interferon experiment, from rare to abundant."""
    adata = read_h5ad(data_path("kang_9k_genes.h5ad"))
    chosen = np.random.default_rng(0).permutation(adata.n_obs)[:400]
    sums = np.asarray(adata.X.sum(0)).ravel()
    genes = np.argsort(-sums)[np.unique(np.geomspace(1, 6000, 120).astype(int))]
    x = sparse.csr_matrix(adata.X[chosen][:, genes], dtype=np.float32)
    adata = AnnData(x, obs=adata.obs.iloc[chosen][["condition", "cell_type"]])
    adata.obs["total_counts"] = np.maximum(np.asarray(adata.X.sum(1)).ravel(), 1.0)
    return adata


@pytest.fixture(scope="module", params=["nb", "zinb", "poisson"])
def model(request: pytest.FixtureRequest, kang: AnnData) -> SCGEN:
    setup = {"condition_key": "condition", "labels_key": "cell_type", "size_factor_key": "total_counts"}
    return train(SCGEN, kang.copy(), epochs=5, setup=setup, gene_likelihood=request.param)


def assert_same(found: AnnData, expected: AnnData) -> None:
    for one, other in ((found.X, expected.X), *((found.layers[name], expected.layers[name]) for name in found.layers)):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        if sparse.issparse(one):
            np.testing.assert_array_equal(one.indptr, other.indptr)
            np.testing.assert_array_equal(one.indices, other.indices)
            one, other = one.data, other.data
        np.testing.assert_array_equal(one, other)
    for name in found.varm:
        np.testing.assert_array_equal(found.varm[name], expected.varm[name])
    assert set(found.layers) == set(expected.layers)


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_scipy(model: SCGEN, question: str) -> None:
    found = model.predict_perturbation(**ASKED, **QUESTIONS[question])
    with compiled(False):
        assert_same(found, model.predict_perturbation(**ASKED, **QUESTIONS[question]))
    assert found.layers["counts"].nnz > found.n_obs


def test_other_cells_and_their_order_do_not_matter(model: SCGEN, kang: AnnData) -> None:
    whole = model.predict_perturbation(kang, **ASKED, empirical_weight=0.0)
    turned = model.predict_perturbation(kang[::-1].copy(), **ASKED, empirical_weight=0.0, batch_size=64)
    again = turned[whole.obs_names]
    np.testing.assert_allclose(again.layers["rate"], whole.layers["rate"], rtol=1e-4)
    # products of matrices round by the size of a mini-batch, which moves one count in many
    assert (again.layers["counts"] != whole.layers["counts"]).nnz < 1e-3 * whole.layers["counts"].nnz


@pytest.mark.filterwarnings("ignore::deltavi.errors.InputDataWarning")
@pytest.mark.parametrize("odd", ["empty rows", "nothing", "one cell", "large"])
def test_odd_cells_are_answered_alike(model: SCGEN, kang: AnnData, odd: str) -> None:
    cells = kang[kang.obs["condition"] == "control"].copy()
    x = cells.X.toarray()
    cells.X = sparse.csr_matrix(
        {
            "empty rows": lambda: x * (np.arange(len(x)) % 2)[:, None],
            "nothing": lambda: 0 * x,
            "one cell": lambda: x,
            "large": lambda: np.where(x == x.max(), np.float32(2**24 + 2), x),
        }[odd]()
    )
    cells = cells[:1].copy() if odd == "one cell" else cells
    found = model.predict_perturbation(cells, **ASKED)
    with compiled(False):
        assert_same(found, model.predict_perturbation(cells, **ASKED))


def test_cells_of_a_known_library_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = train(SCGEN, small_adata(), n_hidden=16, n_latent=4)
    tensors = model._cells(model.adata).take(np.arange(9))
    encoded = model.module.inference(**model.module._get_inference_input(tensors))
    inputs = model.module._get_generative_input(tensors, encoded)
    decode = CellDecoder(model.module, tensors)
    for name, value in inputs.items():
        if name != "z" and value is not None:
            torch.testing.assert_close(decode.inputs[name], value, rtol=0, atol=0)
    np.testing.assert_array_equal(decode.posterior_mean, encoded["qz"].loc.detach().numpy())
    np.testing.assert_array_equal(decode.posterior_scale, encoded["qz"].scale.detach().numpy())
    monkeypatch.setattr(type(model.module), "inference", None)
    z = np.zeros((9, 4))
    assert CellDecoder(model.module, tensors)(z).mean.shape == (9, model.adata.n_vars)


@pytest.mark.parametrize("library", ["learned", "observed", "size_factor"])
def test_every_library_is_decoded_with(library: str) -> None:
    adata = small_adata()
    adata.obs["depth"] = np.asarray(adata.X.sum(1)).ravel() + 1.0
    setup = {**SETUP, "size_factor_key": "depth"} if library == "size_factor" else SETUP
    model = train(SCGEN, adata, setup=setup, n_hidden=16, n_latent=4, library=library)
    tensors = model._cells(model.adata).take(np.arange(9))
    encoded = model.module.inference(**model.module._get_inference_input(tensors))
    if library == "learned":
        encoded["library"] = encoded["ql"].loc
    z = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    inputs = {**model.module._get_generative_input(tensors, encoded), "z": torch.from_numpy(z)}
    expected = model.module.generative(**inputs)["likelihood"].mean
    torch.testing.assert_close(CellDecoder(model.module, tensors)(z).mean, expected, rtol=0, atol=0)


def test_offsets_that_were_tried_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[np.ndarray] = []
    monkeypatch.setattr(Matching, "__init__", lambda self: setattr(self, "_known", []))
    monkeypatch.setattr(Matching, "_drawn_at", lambda self, offsets: (asked.append(offsets), 2 * offsets)[1])
    matching = Matching()
    for offsets in ([0.0, 0.0], [1.0, 3.0], [0.0, 3.0], [1.0, 0.0], [1.0, 2.0], [0.0, 2.0]):
        np.testing.assert_array_equal(matching.mean_at(np.array(offsets)), 2 * np.array(offsets))
    assert [list(one) for one in asked] == [[0, 0], [1, 3], [1, 2]]


def test_cells_drawn_alike_are_matched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MatchedCells, "__init__", lambda self, n: setattr(self, "names", [f"cell {i}" for i in range(n)])
    )
    made: list[tuple[int, int]] = []

    def init(self: Matching, cells: MatchedCells, seed: int, n_draws: int) -> None:
        made.append((seed, n_draws))
        self.draws = [print] * n_draws

    monkeypatch.setattr(Matching, "__init__", init)
    many, few = MatchedCells(200), MatchedCells(100)
    assert many.drawn(0) is many.expected
    assert many.drawn(1) is not many.expected
    # what is expected of few cells is the mean of several draws
    assert few.drawn(0) is not few.expected
    assert made == [(0, 1), (1, 1), (0, 2), (0, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_stretches_beyond_the_first_that_is_too_far_do_not_count(seed: int) -> None:
    projections = np.random.default_rng(seed).normal(size=len(STRETCHES)).cumsum() / 2
    asked = []

    def change(vector: np.ndarray) -> np.ndarray:
        asked.append(float(vector[0]))
        return projections[[np.argmin(np.abs(STRETCHES - vector[0]))]]

    _, factor = stretched(Shift(np.ones(1), "paired", {"a": 1.0}), np.ones(1), change)
    assert factor == np.interp(1.0, np.maximum.accumulate(projections), STRETCHES)
    assert len(asked) == min(int(np.argmax(np.append(projections, 2) > 1.0)) + 1, len(STRETCHES))


DRAWN = """
import numpy as np, torch, zlib
from deltavi.kernels import kernels
from deltavi.likelihood import Dispersion, ZeroInflatedNegativeBinomial
from deltavi.likelihood.rows import quantile_rows
from deltavi.perturbation.coupling import count_coupling
from deltavi.perturbation.noise import cell_generators, uniforms

rng, shape = np.random.default_rng(0), (40, 30)
theta = Dispersion(torch.from_numpy(rng.gamma(1.0, 2.0, 30).astype(np.float32)))

def single(values):
    return torch.from_numpy(values.astype(np.float32))

def build():
    return ZeroInflatedNegativeBinomial(single(rng.gamma(0.6, 3.0, shape)), theta, single(rng.normal(size=shape)))

source, target = build(), build()
noise = cell_generators([f"cell {i}" for i in range(40)], seed=7)
first, second = uniforms(noise, 30), uniforms(noise, 30)
carried = count_coupling(source.sample(rng).numpy(), source, uniform=first)(target)
drawn = quantile_rows(target, second)
print(kernels("quantiles") is not None, *(zlib.crc32(rows.toarray()) for rows in (carried, drawn)), carried.nnz)
"""


def test_a_process_without_compilation_draws_the_same() -> None:
    source = Path(deltavi.__file__).parents[1]
    words = []
    for more in ({}, {"NUMBA_DISABLE_JIT": "1"}):
        own = {**os.environ, "PYTHONPATH": str(source), **more}
        done = subprocess.run([sys.executable, "-c", DRAWN], env=own, capture_output=True, text=True, check=True)
        words.append(done.stdout.split())
    assert [one[0] for one in words] == ["True", "False"]
    assert words[0][1:] == words[1][1:]
