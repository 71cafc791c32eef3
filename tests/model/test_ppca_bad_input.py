"""Bad input to PPCA and factor analysis: what a user may hand over by mistake, and what must happen.

Names, batches and storage are in ``test_ppca_bad_storage.py``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

import deltavi
from deltavi.errors import ConvergenceWarning, DeltaviError, InputDataError, InputDataWarning
from deltavi.latent import _factors
from deltavi.model import PPCA
from deltavi.pp import log_normalise
from tests.model.conftest import dense
from tests.model.linear import ASK, NOISE, NOISES, answers, assert_same, counts, fitted, logs, untrained, with_value


@pytest.fixture(scope="module", params=NOISES)
def model(request: pytest.FixtureRequest) -> PPCA:
    """Not to be changed by tests."""
    return fitted(logs(), request.param)


# -- NaN, infinite values, and what is no number -------------------------------------------------------------

NO_NUMBERS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "one NaN": (with_value(np.nan), "1 NaN and 0 infinite"),
    "one NaN in a sparse matrix": (lambda x: sparse.csr_matrix(with_value(np.nan)(x)), "1 NaN and 0 infinite"),
    "one infinite value": (with_value(np.inf), "0 NaN and 1 infinite"),
    "one infinite value below zero": (with_value(-np.inf), "0 NaN and 1 infinite"),
}
BROKEN = pytest.mark.parametrize(("change", "number"), NO_NUMBERS.values(), ids=NO_NUMBERS)


@BROKEN
@pytest.mark.parametrize("layer", [None, "logs"])
def test_no_number_at_setup_with_a_way_out_that_works(change: Any, number: str, layer: str | None) -> None:
    adata = logs(change)
    if layer is not None:
        adata.layers[layer], adata.X = adata.X, logs().X
    with pytest.raises(InputDataError, match=f"{number} values in 1 of 144 cells .*'CELL000004'.*'GENE0003'") as caught:
        PPCA.setup_anndata(adata, layer=layer)
    way_out = re.search(r"adata\[deltavi.*?\)\]", str(caught.value))
    assert way_out is not None
    kept = eval(way_out.group(), {"adata": adata, "deltavi": deltavi})
    assert list(kept.obs_names) == [name for name in adata.obs_names if name != "CELL000004"]
    PPCA.setup_anndata(kept.copy(), layer=layer)


@BROKEN
def test_no_number_in_a_query_names_the_cell_which_can_be_left_out(model: PPCA, change: Any, number: str) -> None:
    query = logs(change)
    for ask in (model.get_latent_representation, model.log_likelihood, model.impute, model.get_elbo):
        with pytest.raises(InputDataError, match=f"{number} .*'CELL000004'.*'GENE0003'"):
            ask(query)
    with pytest.raises(InputDataError, match="'CELL000004'"):
        model.predict_perturbation(query, **ASK)
    query = logs(lambda x: change(x[::-1])[::-1])  # a control cell
    name = query.obs_names[-4]
    query.obs["condition"] = "control"
    predicted = model.predict_perturbation(query, invalid_cells="drop", **ASK)
    assert set(query.obs_names) - set(predicted.obs["deltavi_source_cell"]) == {name}
    assert np.isfinite(dense(predicted.X)).all()


@NOISE
@pytest.mark.parametrize("many_genes", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number_that_came_after_setup(
    noise: str, value: float, many_genes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = logs()
    late = untrained(adata, noise)
    adata.X[3, 2] = value
    if many_genes:
        monkeypatch.setattr(_factors, "MOST_GENES", 10)
    with pytest.raises(InputDataError, match=r"1 of 40 genes.*set it up again"):
        late.train()
    assert not late.is_trained


@pytest.mark.parametrize(
    ("kind", "message"), [(object, "dtype object.*astype"), (complex, "complex"), (str, "not numbers.*astype")]
)
def test_what_is_no_number_at_all(kind: type, message: str) -> None:
    adata = logs()
    try:
        adata.X = adata.X.astype(kind)
    except (TypeError, ValueError):
        pytest.skip("anndata does not let it in")
    with pytest.raises(InputDataError, match=f"adata.X has.*{message}|adata.X has {message}"):
        PPCA.setup_anndata(adata)


# -- another scale than log1p CP10k ----------------------------------------------------------------------------


def in_five_of_a_hundred(x: np.ndarray) -> np.ndarray:
    return np.where(np.random.default_rng(0).random(x.shape) < 0.05, -1.0, x)


def in_one_of_a_thousand(x: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(x)
    chosen = np.random.default_rng(0).choice(len(rows), max(1, len(rows) // 1000), replace=False)
    x[rows[chosen], columns[chosen]] += 0.5
    return x


def scaled(total: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: total * x / x.sum(1, keepdims=True)


LAST = with_value(-1.0, row=143, column=39)
N_NEGATIVE = int((in_five_of_a_hundred(logs().X) < 0).sum())
N_VALUES = np.count_nonzero(counts().X)
SCALES: dict[str, tuple[AnnData, str]] = {
    "one negative value, the last": (logs(LAST), r"1 negative values in 1 cells \(for example 'CELL000144'\)"),
    "one negative value, sparse": (logs(lambda x: sparse.csr_matrix(LAST(x))), "1 negative values.*'CELL000144'"),
    "negative values in five of a hundred": (
        logs(in_five_of_a_hundred),
        rf"{N_NEGATIVE} negative values in \d+ cells .*'CELL\d+', 'CELL\d+', 'CELL\d+'",
    ),
    "centred": (logs(lambda x: x - x.mean(0)), "negative values in 144 cells .*scaled or centred"),
    "raw counts": (counts(), rf"raw counts \(values up to \d+, {N_VALUES} of {N_VALUES} whole"),
    "raw counts as integers": (counts(lambda x: x.astype(np.int64)), "raw counts"),
    "raw counts that are small": (counts(lambda x: np.minimum(x, 5.0)), "raw counts .values up to 5, "),
    "small counts, fractional in one of a thousand": (
        counts(lambda x: in_one_of_a_thousand(np.minimum(x, 5.0))),
        rf"raw counts \(values up to 5.5, {N_VALUES - max(1, N_VALUES // 1000)} of {N_VALUES} whole",
    ),
    "counts that were corrected": (counts(lambda x: x * 1.1), "corrected.*before the logarithm"),
    "counts scaled to ten thousand": (counts(scaled(1e4)), "scaled per cell before the logarithm.*sc.pp.log1p"),
    "counts scaled to a hundred": (counts(scaled(1e2)), "scaled per cell before the logarithm.*sc.pp.log1p"),
    "one value of 1e9": (logs(with_value(1e9)), "values up to 1e[+]09"),
}
SCALE = pytest.mark.parametrize(("adata", "message"), SCALES.values(), ids=SCALES)


@NOISE
@SCALE
def test_another_scale_is_refused_unless_it_is_meant(noise: str, adata: AnnData, message: str) -> None:
    adata = adata.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*above 2.24", InputDataWarning)
        PPCA.setup_anndata(adata)
    with pytest.raises(InputDataError, match=rf"adata.X .*{message}.*PPCA needs log1p CP10k.*log_normalise") as caught:
        PPCA(adata, noise=noise)
    # what other models could do about it
    assert not re.search("gene_likelihood|zinb", str(caught.value))
    assert "check_input=False" in str(caught.value)
    meant = PPCA(adata, noise=noise, n_latent=3, check_input=False)
    meant.train()
    assert np.isfinite(meant.get_latent_representation()).all()
    assert np.isfinite(meant.log_likelihood()).all()


@SCALE
def test_a_query_on_another_scale_is_refused(model: PPCA, adata: AnnData, message: str) -> None:
    query = adata.copy()
    for ask in (model.get_latent_representation, model.log_likelihood, model.impute):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*above 2.24", InputDataWarning)
            with pytest.raises(InputDataError, match=f"The query .*{message}.*PPCA needs log1p CP10k") as caught:
                ask(query)
    assert not re.search("gene_likelihood|zinb", str(caught.value))


def test_a_bool_matrix_warns_and_is_refused() -> None:
    adata = logs(lambda x: x > 0)
    with pytest.warns(InputDataWarning, match="bool") as caught:
        PPCA.setup_anndata(adata)
    assert len(caught) == 1
    with pytest.raises(InputDataError, match=r"raw counts \(values up to 1,"):
        PPCA(adata)


@pytest.mark.parametrize("layer", [None, "x"])
def test_the_way_out_for_a_query_of_counts_works(layer: str | None) -> None:
    adata = logs()
    if layer is not None:
        adata.layers[layer], adata.X = adata.X, counts().X
    model = fitted(adata, "isotropic", setup={"layer": layer})
    query = counts()
    if layer is not None:
        query.layers[layer] = query.X.copy()
    with pytest.raises(InputDataError, match="The query looks like raw counts") as caught:
        model.get_latent_representation(query)
    made = re.search(r"deltavi.pp.log_normalise\(.*?\)", str(caught.value))
    put = re.search(r"adata\.\S+ = adata\.layers\['logs'\]", str(caught.value))
    assert made is not None
    assert put is not None
    exec(f"{made.group()}\n{put.group()}", {"adata": query, "deltavi": deltavi})
    np.testing.assert_allclose(
        model.get_latent_representation(query), model.get_latent_representation(), rtol=1e-4, atol=1e-4
    )


def test_a_query_without_the_layer_is_told_how_to_make_it() -> None:
    adata = logs()
    adata.layers["logs"] = adata.X
    model = fitted(adata, "isotropic", setup={"layer": "logs"})
    query = counts()
    with pytest.raises(DeltaviError, match=r"layers\['logs'\], which the query does not have") as caught:
        model.log_likelihood(query)
    assert "deltavi.pp.log_normalise(adata, key_added='logs')" in str(caught.value)
    log_normalise(query, key_added="logs")
    np.testing.assert_allclose(model.log_likelihood(query), model.log_likelihood(), rtol=1e-4)


def test_logarithms_are_not_normalised_again() -> None:
    with pytest.raises(InputDataError, match="must hold raw counts"):
        log_normalise(logs())


@NOISE
@pytest.mark.parametrize("base", [2.0, 10.0])
def test_logarithms_to_another_base_are_taken(noise: str, base: float) -> None:
    assert np.isfinite(fitted(logs(lambda x: x / np.log(base)), noise).log_likelihood()).all()


# -- cells without counts, genes that never vary ---------------------------------------------------------------


def test_an_empty_cell_warns_once_and_lies_somewhere(model: PPCA) -> None:
    adata = logs(lambda x: np.where(np.arange(144)[:, None] == 4, 0.0, x))
    with pytest.warns(InputDataWarning, match="adata.X: 1 cells have no counts .*'CELL000005'.*removing") as caught:
        again = fitted(adata, model.noise)
    assert len(caught) == 1
    assert np.isfinite(again.get_latent_representation()).all()
    with pytest.warns(InputDataWarning, match="1 cells have no counts .*'CELL000005'"):
        likelihood = model.log_likelihood(adata)
    assert np.isfinite(likelihood).all()
    others = np.arange(144) != 4
    np.testing.assert_allclose(likelihood[others], model.log_likelihood()[others])


@NOISE
@pytest.mark.parametrize("value", [0.0, 2.5], ids=["a gene without counts", "a gene that is the same in all cells"])
def test_a_gene_that_never_varies_moves_no_cell(noise: str, value: float) -> None:
    flat = fitted(logs(lambda x: np.where(np.arange(40) == 5, value, x)), noise)
    without = fitted(logs()[:, np.arange(40) != 5].copy(), noise)
    assert abs(flat.get_loadings().iloc[5]).max() < 1e-6
    assert (flat.get_noise() > 0).all()
    assert np.isfinite(flat.log_likelihood()).all()
    # nor do cells of a query where it does vary
    np.testing.assert_allclose(
        flat.get_latent_representation(logs()), flat.get_latent_representation(), rtol=1e-4, atol=1e-4
    )
    planes = [np.linalg.qr(one.get_loadings().drop("GENE0006", errors="ignore"))[0] for one in (flat, without)]
    assert np.linalg.svd(planes[0].T @ planes[1])[1].min() > 0.99


@NOISE
@pytest.mark.parametrize("n_genes", [40, 300])
@pytest.mark.parametrize("value", [0.1, 1.5])
def test_cells_that_are_all_alike(noise: str, n_genes: int, value: float) -> None:
    adata = AnnData(np.full((30, n_genes), value, dtype=np.float32))
    alike = fitted(adata, noise, setup={})
    np.testing.assert_allclose(alike.get_latent_representation(), 0, atol=1e-3)
    assert np.isfinite(alike.log_likelihood()).all()
    np.testing.assert_allclose(alike.impute(), value, rtol=1e-4)


# -- too few cells, too few genes, none ------------------------------------------------------------------------


@NOISE
@pytest.mark.parametrize(
    ("n_cells", "n_genes", "n_latent", "message"),
    [
        (1, 40, 1, "1 cells are too few to train on; at least 3"),
        (2, 40, 1, "2 cells are too few to train on; at least 3"),
        (144, 1, 1, "144 cells of 1 genes are too few.*at least 3 cells and 2 genes"),
        (10, 40, 9, "n_latent=9 .*10 cells and 40 genes.*must be smaller"),
        (144, 40, 40, "n_latent=40 .*144 cells and 40 genes.*must be smaller"),
        (144, 40, 0, "n_latent must be a whole number of at least 1, not 0"),
        (144, 40, 2.5, "n_latent must be a whole number of at least 1, not 2.5"),
    ],
    ids=["one cell", "two cells", "one gene", "factors for all cells", "factors for all genes", "none", "a fraction"],
)
def test_too_few_cells_or_genes(noise: str, n_cells: int, n_genes: int, n_latent: Any, message: str) -> None:
    # no cell is empty
    adata = logs(lambda x: x + 0.5)[:n_cells, :n_genes].copy()
    with pytest.raises(DeltaviError, match=message):
        fitted(adata, noise, n_latent=n_latent, setup={})


@NOISE
def test_three_cells_are_enough_for_one_factor(noise: str) -> None:
    three = fitted(logs()[:3].copy(), noise, n_latent=1, setup={})
    assert np.isfinite(three.log_likelihood()).all()


def test_a_fit_that_does_not_settle_warns_with_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_factors, "MOST_ROUNDS", 2)
    adata = logs()
    with pytest.warns(ConvergenceWarning, match="after 2 rounds on 144 cells of 40 genes.*noise='isotropic'") as caught:
        fitted(adata, "diagonal")
    assert len(caught) == 1


def test_no_cells_to_learn_from() -> None:
    with pytest.raises(DeltaviError, match="0 cells and 40 genes"):
        PPCA.setup_anndata(logs()[:0].copy())


@pytest.mark.parametrize("n_samples", [1, 3])
def test_no_cells_to_ask_about(model: PPCA, n_samples: int) -> None:
    nobody = logs()[:0].copy()
    for empty in (model.get_latent_representation(nobody), model.get_latent_representation(indices=[])):
        assert empty.shape == (0, 3)
    for pair in (
        model.get_latent_representation(nobody, return_dist=True),
        model.get_latent_representation(indices=[], return_dist=True),
    ):
        assert [part.shape for part in pair] == [(0, 3), (0, 3)]
    assert model.log_likelihood(nobody).shape == model.log_likelihood(indices=[]).shape == (0,)
    assert model.impute(nobody).shape == (0, 40)
    none = model.predict_perturbation(nobody, n_samples=n_samples, **ASK)
    some = model.predict_perturbation(logs(), n_samples=n_samples, **ASK)
    assert none.shape == (0, 40)
    assert list(none.obs) == list(some.obs)
    assert list(none.layers) == list(some.layers)
    assert list(none.obsm) == list(some.obsm)
    assert type(none.X) is type(some.X)


@pytest.mark.parametrize("row", [0, 143])
def test_one_cell_is_answered_as_among_others(model: PPCA, row: int) -> None:
    adata = logs()
    adata.obs["condition"] = "control"
    every = answers(model, adata)
    assert_same(answers(model, adata[[row]].copy()), {verb: values[[row]] for verb, values in every.items()})


def test_a_last_batch_of_one_cell(model: PPCA) -> None:
    expected = model.get_latent_representation(return_dist=True)
    for size in (1, 11, 143):  # 144 leaves a rest of none, one and one
        found = model.get_latent_representation(return_dist=True, batch_size=size)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.impute(batch_size=size), model.impute(), rtol=1e-4, atol=1e-5)
    again = fitted(logs(), model.noise)
    again.train(batch_size=143)
    assert again.get_loadings().equals(model.get_loadings())
