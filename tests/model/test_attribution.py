"""Attributions of labels to genes: against closed forms, on a stand-in with the hooks that models provide."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData, read_h5ad
from torch import Tensor, nn

import deltavi
from deltavi.errors import DeltaviError, NotTrainedError, UnknownCategoryError
from deltavi.model._annotates import Annotates

N_CELLS, N_GENES = 23, 12
LABELS = ["B", "NK", "T"]


class Module(nn.Module):
    """Classifier of log1p expression with an offset per batch; without `n_hidden` it is linear."""

    def __init__(self, n_hidden: int = 0) -> None:
        super().__init__()
        torch.manual_seed(1)
        sizes = [N_GENES, n_hidden, len(LABELS)] if n_hidden else [N_GENES, len(LABELS)]
        layers: list[nn.Module] = [nn.Dropout(0.5)]
        for i in range(len(sizes) - 1):
            layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.Softplus()]
        self.layers = nn.Sequential(*layers[:-1])
        self.of_batch = nn.Parameter(torch.randn(2, N_GENES))
        self.rows_seen: list[int] = []

    def classifier_input(self, tensors: dict[str, Tensor]) -> Tensor:
        return tensors["X"].log1p()

    def class_logits(self, expression: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        assert len(expression) == len(tensors["X"])
        self.rows_seen.append(len(expression))
        scale = self.of_batch[tensors["batch"].squeeze(1).long()]
        return self.layers(expression * scale)

    @property
    def weight(self) -> np.ndarray:
        """Of the linear classifier, ``(n_labels, n_genes)``."""
        return self.layers[1].weight.detach().numpy()


class Model(Annotates):
    """As much of a model as attributions need."""

    labels: Sequence[str] = LABELS

    def __init__(self, adata: AnnData, *, n_hidden: int = 0, is_trained: bool = True) -> None:
        self._adata, self.module, self.is_trained_ = adata, Module(n_hidden), is_trained

    @property
    def label_names(self) -> np.ndarray:
        return np.asarray(self.labels, dtype=object)

    def _require_trained(self, what: str) -> None:
        if not self.is_trained_:
            raise NotTrainedError(f"{what} needs a trained model: call train() first.")

    def _validate_anndata(self, adata: AnnData | None = None) -> AnnData:
        return self._adata if adata is None else adata

    def _make_data_loader(self, *, adata: AnnData, indices: np.ndarray, batch_size: int) -> Any:
        torch.rand(1)  # loaders of torch draw from the global generator
        for start in range(0, len(indices), batch_size):
            rows = indices[start : start + batch_size]
            x, batch = adata.X[rows].toarray(), adata.obs["batch"].to_numpy()[rows]
            yield {"X": torch.from_numpy(x), "batch": torch.from_numpy(batch)[:, None]}


# nothing is registered, which newer versions of scvi-tools ask of every model
Model.__abstractmethods__ = frozenset()


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"batch": rng.integers(0, 2, N_CELLS), "donor": rng.choice(["x", "y"], N_CELLS), "_scvi_labels": 0},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    counts = sp.csr_matrix(rng.poisson(0.8, (N_CELLS, N_GENES)).astype(np.float32))
    return AnnData(X=counts, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))


@pytest.fixture
def linear(adata) -> Model:
    return Model(adata)


@pytest.fixture
def nonlinear(adata) -> Model:
    return Model(adata, n_hidden=16)


def scaled(model: Model, adata: AnnData) -> np.ndarray:
    """Log expression times the factors of the batch, in which the linear classifier is linear."""
    factors = model.module.of_batch.detach().numpy()[adata.obs["batch"].to_numpy()]
    return np.log1p(adata.X.toarray()) * factors


def logits(model: Model, adata: AnnData, *, factor: float = 1.0) -> np.ndarray:
    module = model.module.eval()
    with torch.no_grad():
        return module.layers(torch.from_numpy((factor * scaled(model, adata)).astype(np.float32))).numpy()


class TestClosedForm:
    @pytest.mark.parametrize("label", LABELS)
    def test_linear_classifier_gives_weight_times_input(self, linear, adata, label):
        result = linear.get_attributions(label=label, n_steps=3)
        expected = linear.module.weight[LABELS.index(label)] * scaled(linear, adata)
        np.testing.assert_allclose(result.X.toarray(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.obs["deltavi_completeness_gap"], 0, atol=1e-5)

    def test_own_label_is_that_of_the_highest_logit(self, linear, adata):
        codes = logits(linear, adata).argmax(1)
        assert len(set(codes)) > 1
        result = linear.get_attributions()
        assert list(result.obs["deltavi_label"]) == [LABELS[code] for code in codes]
        np.testing.assert_allclose(
            result.X.toarray(), linear.module.weight[codes] * scaled(linear, adata), rtol=1e-5, atol=1e-6
        )

    def test_quadratic_logit_has_a_closed_integral(self, linear, adata):
        linear.module.class_logits = lambda x, tensors: torch.stack([x.sum(1) ** 2, x[:, 0] * x[:, 1]], dim=1)
        linear.labels = ["square", "product"]
        x = np.log1p(adata.X.toarray())
        # d/dx_g of (sum x)^2 along t x is 2 t sum x, and the integral of t is a half
        square = linear.get_attributions(label="square", n_steps=5).X.toarray()
        np.testing.assert_allclose(square, x * x.sum(1, keepdims=True), rtol=1e-5)
        product = linear.get_attributions(label="product", n_steps=5).X.toarray()
        np.testing.assert_allclose(product[:, :2], np.repeat(x[:, :1] * x[:, 1:2], 2, axis=1) / 2, rtol=1e-5)
        assert not product[:, 2:].any()


class TestCompleteness:
    def test_gap_is_what_the_sum_leaves(self, nonlinear, adata):
        result = nonlinear.get_attributions(label="NK", n_steps=1)
        difference = (logits(nonlinear, adata) - logits(nonlinear, adata, factor=0))[:, 1]
        gap = difference - result.X.toarray().astype(np.float64).sum(1)
        np.testing.assert_allclose(result.obs["deltavi_completeness_gap"], gap, atol=1e-5)
        assert np.abs(gap).max() > 1e-4, "one step is too few for no gap at all"

    def test_gap_vanishes_with_more_steps(self, nonlinear):
        coarse, fine = (
            np.abs(nonlinear.get_attributions(label="T", n_steps=n).obs["deltavi_completeness_gap"]).median()
            for n in (1, 20)
        )
        assert fine < 1e-5
        assert fine < coarse / 100

    def test_genes_without_expression_get_exactly_zero(self, nonlinear, adata):
        result = nonlinear.get_attributions()
        assert not result.X.toarray()[adata.X.toarray() == 0].any()
        assert result.X.nnz == adata.X.nnz
        assert np.all(result.X.data != 0)

    def test_cell_without_counts_gets_nothing_and_no_gap(self, nonlinear, adata):
        adata.X = sp.diags_array((np.arange(N_CELLS) != 3).astype(np.float32)).tocsr() @ adata.X
        result = nonlinear.get_attributions()
        assert result.X[3].nnz == 0
        assert result.obs["deltavi_completeness_gap"].iloc[3] == 0

    @pytest.mark.parametrize(("steepness", "warned"), [(0.2, False), (40.0, True)])
    def test_coarse_integral_is_said(self, nonlinear, caplog, steepness, warned):
        nonlinear.module.class_logits = lambda x, tensors: torch.tanh(steepness * (x.sum(1, keepdim=True) - 2))
        with caplog.at_level(logging.WARNING, logger="deltavi"):
            result = nonlinear.get_attributions(label="B", n_steps=8)
        said = [record.getMessage() for record in caplog.records if "raise n_steps, which is 8" in record.getMessage()]
        assert bool(said) == warned
        gap = np.median(np.abs(result.obs["deltavi_completeness_gap"]))
        assert (f"median gap of {gap:.3g} logits" in "".join(said)) == warned


class TestCells:
    def test_positions_and_mask_choose_the_same_cells(self, nonlinear):
        whole = nonlinear.get_attributions(label="B")
        mask = np.zeros(N_CELLS, dtype=bool)
        mask[[2, 5, 11]] = True
        for indices in ([2, 5, 11], np.array([2, 5, 11]), mask):
            part = nonlinear.get_attributions(label="B", indices=indices)
            assert list(part.obs_names) == ["cell2", "cell5", "cell11"]
            np.testing.assert_allclose(part.X.toarray(), whole.X.toarray()[[2, 5, 11]], rtol=1e-5, atol=1e-7)

    def test_order_is_that_of_the_indices(self, nonlinear):
        result = nonlinear.get_attributions(indices=[9, 0, 4])
        assert list(result.obs_names) == ["cell9", "cell0", "cell4"]
        whole = nonlinear.get_attributions()
        np.testing.assert_allclose(result.X.toarray(), whole.X.toarray()[[9, 0, 4]], rtol=1e-5, atol=1e-7)
        assert list(result.obs["deltavi_label"]) == list(whole.obs["deltavi_label"].iloc[[9, 0, 4]])

    @pytest.mark.parametrize("batch_size", [1, 4, 1000])
    def test_batches_do_not_matter(self, nonlinear, batch_size):
        one, other = nonlinear.get_attributions(), nonlinear.get_attributions(batch_size=batch_size)
        np.testing.assert_allclose(one.X.toarray(), other.X.toarray(), rtol=1e-4, atol=1e-6)
        assert list(one.obs["deltavi_label"]) == list(other.obs["deltavi_label"])

    def test_steps_are_taken_in_portions(self, nonlinear):
        nonlinear.get_attributions(n_steps=200)
        assert max(nonlinear.module.rows_seen) <= 1024 < sum(nonlinear.module.rows_seen)

    def test_other_cells(self, linear, adata):
        other = adata[[4, 1]].copy()
        np.testing.assert_allclose(
            linear.get_attributions(other).X.toarray(), linear.get_attributions(indices=[4, 1]).X.toarray(), rtol=1e-5
        )


class TestResult:
    def test_shape_and_annotation(self, linear, adata):
        result = linear.get_attributions(label="NK", indices=[0, 1], n_steps=7)
        assert result.shape == (2, N_GENES)
        assert sp.isspmatrix_csr(result.X)
        assert result.X.dtype == np.float32
        assert list(result.var_names) == list(adata.var_names)
        assert list(result.obs) == ["batch", "donor", "deltavi_label", "deltavi_completeness_gap"]
        assert list(result.obs["donor"]) == list(adata.obs["donor"].iloc[:2])
        assert list(result.obs["deltavi_label"].cat.categories) == LABELS
        settings = result.uns["deltavi"]
        assert (settings["model"], settings["label"], settings["n_steps"]) == ("Model", "NK", 7)
        assert settings["deltavi_version"] == deltavi.__version__

    def test_goes_through_a_file(self, linear, tmp_path):
        result = linear.get_attributions()
        result.write_h5ad(tmp_path / "attributions.h5ad")
        back = read_h5ad(tmp_path / "attributions.h5ad")
        assert back.uns["deltavi"] == result.uns["deltavi"]
        np.testing.assert_array_equal(back.X.toarray(), result.X.toarray())

    def test_input_and_randomness_stay_as_they_are(self, nonlinear, adata):
        before, columns = adata.X.copy(), list(adata.obs)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        nonlinear.get_attributions()
        assert (before != adata.X).nnz == 0
        assert list(adata.obs) == columns
        assert torch.equal(torch.get_rng_state(), states[0])
        np.testing.assert_array_equal(np.random.get_state()[1], states[1])

    def test_module_is_left_without_gradients(self, nonlinear):
        nonlinear.module.train()
        one, other = nonlinear.get_attributions(), nonlinear.get_attributions()
        np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())
        assert all(parameter.grad is None for parameter in nonlinear.module.parameters())


class TestErrors:
    def test_untrained(self, adata):
        with pytest.raises(NotTrainedError, match="get_attributions needs a trained model"):
            Model(adata, is_trained=False).get_attributions()

    def test_unknown_label(self, linear):
        with pytest.raises(UnknownCategoryError, match=r"label 'NKT' is not in the model\. Did you mean 'NK'\?"):
            linear.get_attributions(label="NKT")

    @pytest.mark.parametrize(
        ("indices", "message"),
        [
            ([3, 23, -1], r"2 of 3 indices lie outside 0\.\.22 \(for example 23, -1\)"),
            ([], "chooses no cell"),
            (np.zeros(N_CELLS, dtype=bool), "chooses no cell"),
            (np.ones(3, dtype=bool), "mask indices has 3 entries for 23 cells"),
            (["cell1"], "positions or a mask"),
            (4, "one-dimensional"),
            ([0.5], "positions or a mask"),
        ],
    )
    def test_indices(self, linear, indices, message):
        with pytest.raises(DeltaviError, match=message):
            linear.get_attributions(indices=indices)

    @pytest.mark.parametrize("name", ["n_steps", "batch_size"])
    @pytest.mark.parametrize("value", [0, -3, 2.5])
    def test_numbers(self, linear, name, value):
        with pytest.raises(DeltaviError, match=f"{name} must be a whole number"):
            linear.get_attributions(**{name: value})

    def test_without_captum(self, linear, monkeypatch):
        monkeypatch.setitem(sys.modules, "captum", None)
        monkeypatch.setitem(sys.modules, "captum.attr", None)
        with pytest.raises(DeltaviError, match=r'pip install "deltavi\[explain\]"') as caught:
            linear.get_attributions()
        assert isinstance(caught.value.__cause__, ImportError)
