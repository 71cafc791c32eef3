"""The answer for a cell is a matter of its counts: not of storage, order, company, or how many are taken at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from tests.determinism.cases import BATCHED, CASES, Case, counts, per_cell
from tests.determinism.snapshot import equal
from tests.model.conftest import dense
from tests.models import PERTURBATION

# Single precision rounds by half of this. A sum of n products, taken in another order, differs by at most n times as
# much relative to the sum of their sizes, and the linear algebra takes it in another order where it is given another
# number of rows. The longest sum here is over 40 genes, and an answer passes some eight such sums, one after another:
# three layers into the latent space, three out of it, a softmax, and for attributions as many back.
ROUNDING = 8 * 40 * float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module", params=CASES)
def fit(request: pytest.FixtureRequest) -> tuple[Case, Any]:
    case = CASES[request.param]
    return case, case.trained()


def assert_near(found: np.ndarray, expected: np.ndarray, told: str) -> None:
    """Equal up to rounding of single precision; labels are equal."""
    if expected.dtype == object:
        assert found.tolist() == expected.tolist(), told
    else:
        size = float(np.nanmax(np.abs(expected), initial=0.0))
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING * size, err_msg=told)


# -- what leaves every mini-batch as it is: the answer is the same bit for bit ---------------------------------------


def _with(change: Callable[[AnnData], None]) -> Callable[[AnnData, Path], AnnData]:
    def changed(adata: AnnData, _: Path) -> AnnData:
        change(adata)
        return adata

    return changed


def _stored(convert: Callable[[Any], Any]) -> Callable[[AnnData, Path], AnnData]:
    return _with(lambda adata: setattr(adata, "X", convert(adata.X)))


def _backed(convert: Callable[[Any], Any]) -> Callable[[AnnData, Path], AnnData]:
    def opened(adata: AnnData, folder: Path) -> AnnData:
        if not (folder / "cells.h5ad").exists():
            adata.X = convert(adata.X)
            adata.write_h5ad(folder / "cells.h5ad")
        return ad.read_h5ad(folder / "cells.h5ad", backed="r")

    return opened


def _shuffled_genes(adata: AnnData, _: Path) -> AnnData:
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


def _other_categories(adata: AnnData) -> None:
    for key in ("condition", "cell_type", "batch", "partly"):
        names = sorted(set(adata.obs[key].astype(str)), reverse=True)
        adata.obs[key] = pd.Categorical(adata.obs[key].astype(str), categories=["never", *names], ordered=True)


def _unsorted(x: Any) -> Any:
    """The same entries, those of each row from right to left."""
    x = x.tocsr().copy()
    for row in range(x.shape[0]):
        part = slice(x.indptr[row], x.indptr[row + 1])
        x.indices[part], x.data[part] = x.indices[part][::-1].copy(), x.data[part][::-1].copy()
    x.has_sorted_indices = False
    return x


def _twice(x: Any) -> Any:
    """Every entry as two halves in one place."""
    x = x.tocoo()
    halves = sparse.coo_matrix((np.tile(x.data / 2, 2), (np.tile(x.row, 2), np.tile(x.col, 2))), shape=x.shape)
    order = np.argsort(halves.row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(halves.row, minlength=x.shape[0]))])
    whole = sparse.csr_matrix((halves.data[order], halves.col[order], indptr), shape=x.shape)
    whole.has_canonical_format = False
    return whole


def _explicit_zeros(x: Any) -> Any:
    full = np.ones(x.shape, dtype=x.dtype)
    stored = sparse.csr_matrix(full)
    stored.data = dense(x).reshape(-1).copy()
    return stored


# log p(x) of a cell is a sum over genes that is taken another way where it is known which counts are zero
SUMMED = ("scores", "log_likelihood")
SAME_BATCHES: dict[str, Callable[[AnnData, Path], AnnData]] = {
    "dense": _stored(dense),
    "dense by columns": _stored(lambda x: np.asfortranarray(dense(x))),
    "dense in double precision": _stored(lambda x: dense(x).astype(np.float64)),
    "CSC": _stored(sparse.csc_matrix),
    "a sparse array": _stored(sparse.csr_array),
    "a sparse array by columns": _stored(sparse.csc_array),
    "double precision": _stored(lambda x: x.astype(np.float64)),
    "unsorted rows": _stored(_unsorted),
    "entries in two halves": _stored(_twice),
    "stored zeros": _stored(_explicit_zeros),
    "backed CSR": _backed(sparse.csr_matrix),
    "backed CSC": _backed(sparse.csc_matrix),
    "backed dense": _backed(dense),
    "a view": lambda adata, _: adata[np.arange(adata.n_obs)],
    "a view of genes": lambda adata, _: adata[:, ::-1],
    "genes in another order": _shuffled_genes,
    "more genes": lambda adata, _: ad.concat([adata, _foreign_genes(adata)], axis=1, merge="first"),
    "categories in another order": _with(_other_categories),
    "text for categories": _with(lambda adata: setattr(adata, "obs", adata.obs.astype(object))),
    "more columns": _with(lambda adata: adata.obs.insert(0, "further", np.arange(adata.n_obs))),
    "more layers": _with(lambda adata: adata.layers.__setitem__("further", adata.X * 2)),
    "cells in raw": _with(lambda adata: setattr(adata, "raw", adata.copy())),
}
WHOLE = {
    "int8": np.int8,
    "uint16": np.uint16,
    "int32": np.int32,
    "int64": np.int64,
    "uint64": np.uint64,
    "half precision": np.float16,
}


def _foreign_genes(adata: AnnData) -> AnnData:
    foreign = AnnData(sparse.csr_matrix((adata.n_obs, 3), dtype=np.float32), obs=adata.obs[[]].copy())
    foreign.var_names = ["foreign 1", "foreign 2", "foreign 3"]
    return foreign


def queries(case: Case, folder: Path) -> dict[str, Callable[[], AnnData]]:
    found = {name: lambda change=change: change(case.data(1), folder) for name, change in SAME_BATCHES.items()}
    if case.data is counts:
        # whole numbers below 128 and 2048, which these types hold exactly
        small = {
            name: lambda kind=kind: _stored(lambda x: _typed(x, kind))(_small(case), folder)
            for name, kind in WHOLE.items()
        }
        found |= small
    return found


def _typed(x: Any, kind: Any) -> Any:
    # SciPy has no sparse matrices in half precision
    return dense(x).astype(kind) if kind is np.float16 else x.astype(kind)


def _small(case: Case) -> AnnData:
    adata = case.data(1)
    adata.X.data = np.minimum(adata.X.data, 127)
    return adata


@pytest.mark.parametrize("name", [*SAME_BATCHES, *WHOLE])
def test_storage_changes_nothing(fit: tuple[Case, Any], name: str, tmp_path: Path) -> None:
    case, model = fit
    made = queries(case, tmp_path).get(name)
    if made is None:
        return  # logarithms do not fit into whole numbers
    plain = _small(case) if name in WHOLE else case.data(1)
    for verb, ask in per_cell(case).items():
        if verb in ("attributions", "hard"):
            continue  # of the same mini-batches as the others, and slow
        found, expected = ask(model, made()), ask(model, plain)
        if verb in SUMMED:
            assert_near(found, expected, verb)
        else:
            assert equal(found, expected), verb


def test_storage_changes_no_training(tmp_path: Path) -> None:
    for case in (CASES["SCGEN"], CASES["ACTINN"], CASES["LABELVI"]):
        expected = case.trained()
        for name in ("dense", "CSC", "double precision", "unsorted rows", "a sparse array"):
            adata = SAME_BATCHES[name](case.data(), tmp_path)
            found = case.trained(adata)
            for verb, ask in per_cell(case).items():
                # sums of counts for the start of the decoder are taken in another order
                assert_near(ask(found, case.data(1)), ask(expected, case.data(1)), f"{name}, {verb}")


# -- what makes other mini-batches of the same cells -----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 512])
def test_cells_taken_at_a_time_change_nothing_but_rounding(fit: tuple[Case, Any], size: int) -> None:
    case, model = fit
    query = case.data(1)
    verbs = {name: verb for name, verb in per_cell(case).items() if name in BATCHED}
    for name, verb in verbs.items():
        if (name, size) == ("latent", 512) and case.names:
            continue
        assert_near(verb(model, query, batch_size=size), verb(model, query), name)


def test_cells_taken_at_a_time_change_no_p_value(fit: tuple[Case, Any]) -> None:
    """Also of the cells that were held out, each of which is among those it is compared with."""
    case, model = fit
    if "scores" not in per_cell(case):
        pytest.skip("no p-values")
    expected = model.get_novelty_scores()["p_value"]
    for size in (1, 7):
        assert equal(model.get_novelty_scores(batch_size=size)["p_value"], expected), size


def test_order_and_company_change_nothing_but_rounding(fit: tuple[Case, Any]) -> None:
    case, model = fit
    query = case.data(1)
    order = np.random.default_rng(0).permutation(query.n_obs)
    several = ad.concat([query, case.data(2), case.data(3)])
    several.obs = several.obs.astype(dict.fromkeys(("condition", "cell_type", "batch", "partly"), str))
    for name, verb in per_cell(case).items():
        expected = verb(model, query)
        assert_near(verb(model, query[order].copy()), expected[order], f"{name}, shuffled")
        assert_near(verb(model, query[5:9].copy()), expected[5:9], f"{name}, four of them")
        assert_near(verb(model, query[11].copy()), expected[[11]], f"{name}, alone")
        assert_near(verb(model, several)[: query.n_obs], expected, f"{name}, among others")


def test_chosen_cells_are_those_cells(fit: tuple[Case, Any]) -> None:
    case, model = fit
    query, chosen = case.data(1), np.array([9, 2, 40])
    for name in per_cell(case).keys() & set(BATCHED):
        verb = per_cell(case)[name]
        assert_near(verb(model, query, indices=chosen), verb(model, query)[chosen], name)


def test_a_prediction_with_a_given_shift_is_one_of_each_cell(fit: tuple[Case, Any]) -> None:
    case, model = fit
    if not case.predicts:
        return
    query = case.data(1)
    how: dict[str, Any] = {**PERTURBATION, "shift": np.full(model.module.n_latent, 0.1)}
    whole = model.predict_perturbation(query, **how)
    order = np.random.default_rng(0).permutation(query.n_obs)
    for told, cells, more in (
        ("one at a time", query, {"batch_size": 1}),
        ("seven at a time", query, {"batch_size": 7}),
        ("shuffled", query[order].copy(), {}),
        ("some", query[::3].copy(), {}),
    ):
        found = model.predict_perturbation(cells, **how, **more)
        same_cells = whole[found.obs_names]
        assert_near(found.layers["rate"], same_cells.layers["rate"], told)
        # a count is drawn at a quantile: where rounding moves the step of a distribution across it, it is another
        x, expected = dense(found.X), dense(same_cells.X)
        near = np.isclose(x, expected, rtol=ROUNDING, atol=ROUNDING * expected.max())
        assert (~near).sum() <= max(1, ROUNDING * near.size), told


def test_what_is_not_the_same_is_told_apart(fit: tuple[Case, Any]) -> None:
    """One count more of each gene of a cell is seen, so that the tests above mean something."""
    case, model = fit
    query, other = case.data(1), case.data(1)
    other.X.data[other.X.indptr[4] : other.X.indptr[5]] += 1
    before, after = (np.asarray(model.get_latent_representation(adata)) for adata in (query, other))
    assert not equal(before, after)
    with pytest.raises(AssertionError):
        assert_near(after, before, "")
