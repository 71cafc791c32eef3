"""Many perturbations at once: the answers of single predictions, in memory and in files, for all genes."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

from deltavi import get, tl
from deltavi.model import LABELVI, MIXVI, PPCA, SCGEN, VAE
from deltavi.perturbation import ResponseModel
from tests.model.conftest import dense, log_normalised, train
from tests.model.screens import CONTEXTS, N_OWN, query, read, screen, shuffled, table_of, trained_on


@pytest.fixture(scope="module")
def model() -> SCGEN:
    """Trained on half of the genes, without the last context under "C"; tests must not change it."""
    return trained_on(SCGEN, screen())


@pytest.fixture(scope="module")
def responses() -> ResponseModel:
    """Measured responses of all genes of the same cells."""
    return table_of(screen())


@pytest.fixture(scope="module")
def found(model: SCGEN, responses: ResponseModel) -> AnnData:
    """All pairs, all genes, and the control cells."""
    return model.predict_perturbations(query(), control="control", responses=responses, controls=True)


def of(predicted: AnnData, context: str, condition: str) -> np.ndarray:
    chosen = (predicted.obs["context"] == context) & (predicted.obs["condition"] == condition)
    return np.asarray(chosen)


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (SCGEN, {}),
        (VAE, {"condition_in_decoder": True}),
        (LABELVI, {}),
        (MIXVI, {"conditional": True}),
        (PPCA, {}),
    ],
)
def test_answers_are_those_of_single_predictions(model_class: type, options: dict[str, Any]) -> None:
    adata = screen()
    own = adata[:, :N_OWN].copy()
    if model_class is PPCA:
        own = log_normalised(own)
        setup = {"condition_key": "condition", "labels_key": "context"}
        one = train(model_class, own, setup=setup, n_latent=4)
    else:
        one = trained_on(model_class, adata, epochs=2, **options)
    asked = {"shift": "z"} if model_class is MIXVI else {}
    every = one.predict_perturbations(control="control", **asked)
    assert every.obs_names.is_unique
    assert every.obs["deltavi_predicted"].all()
    assert set(every.obs["condition"]) == {"A", "B", "C"}
    for perturbation in "ABC":
        single = one.predict_perturbation(control="control", perturbation=perturbation, **asked)
        same = every[single.obs_names]
        np.testing.assert_allclose(dense(same.X), dense(single.X), atol=1e-5)
        for name in filter(None, single.layers):
            np.testing.assert_allclose(dense(same.layers[name]), dense(single.layers[name]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(same.obsm["X_deltavi"], single.obsm["X_deltavi"], atol=1e-5)


def test_a_query_with_other_genes_and_order_gives_the_same(model: SCGEN, found: AnnData, responses: Any) -> None:
    again = model.predict_perturbations(
        shuffled(query()), control="control", responses=responses, controls=True, batch_size=7
    )
    assert set(again.obs_names) == set(found.obs_names)
    same = again[found.obs_names][:, found.var_names]
    np.testing.assert_allclose(dense(same.X), dense(found.X), atol=1e-4)
    assert list(again.var_names) == list(found.var_names)


def test_contexts_and_sums_are_those_asked_for(model: SCGEN) -> None:
    ask = {"control": "control", "perturbations": ["B+C", "A"], "contexts": CONTEXTS[1]}
    some = model.predict_perturbations(query(), **ask)
    assert set(some.obs["context"].astype(str)) == {CONTEXTS[1]}
    assert list(dict.fromkeys(some.obs["condition"])) == ["B+C", "A"]
    single = model.predict_perturbation(query(), control="control", perturbation="B+C", labels=CONTEXTS[1])
    np.testing.assert_array_equal(dense(some[single.obs_names].X), dense(single.X))


def test_the_query_is_encoded_once(model: SCGEN, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    plain = SCGEN.get_latent_representation

    def counted(self: SCGEN, adata: AnnData, indices: np.ndarray, **kwargs: Any) -> Any:
        encoded.append(len(indices))
        return plain(self, adata, indices, **kwargs)

    monkeypatch.setattr(SCGEN, "get_latent_representation", counted)
    cells = query()
    model.predict_perturbations(cells, control="control")
    assert sum(encoded) == cells.n_obs


# -- all genes -----------------------------------------------------------------------------------------------


def test_means_of_other_genes_change_as_the_table_says(found: AnnData, responses: ResponseModel) -> None:
    other = ~found.var["in_model"].to_numpy()
    assert other.sum() == N_OWN
    assert found.var["in_responses"].all()
    x = dense(found.X).astype(float)
    # a count more or less of one cell
    step = np.log1p(1e4 / query().obs["total_counts"].min()) / 40
    places = [responses.table.genes.index(gene) for gene in found.var_names[other]]
    for context in CONTEXTS:
        before = x[of(found, context, "control")][:, other].mean(0)
        for perturbation in "ABC":
            change = responses.predict(perturbation, context=context).change[0][places]
            after = x[of(found, context, perturbation)][:, other].mean(0)
            gap = np.abs(after - np.maximum(before + change, 0))
            assert gap.max() < step
            assert gap.mean() < step / 8


def test_other_genes_are_nearer_to_the_truth_than_no_change(found: AnnData) -> None:
    """Genes that the networks do not have, in a pair that was measured nowhere."""
    complete = screen(hidden=False)
    chosen = complete.obs["context"] == CONTEXTS[2]
    logs = np.log1p(dense(complete.X) * 1e4 / complete.obs["total_counts"].to_numpy()[:, None])
    of_condition = {c: logs[(chosen & (complete.obs["condition"] == c)).to_numpy()].mean(0) for c in ("control", "C")}
    real = pd.Series(of_condition["C"] - of_condition["control"], index=complete.var_names)
    one = get.changes(get.prediction(found, "C"), labels=CONTEXTS[2]).set_index("gene")["change"]
    other = found.var_names[~found.var["in_model"]]
    errors = np.square(one[other] - real[other]).sum(), np.square(real[other]).sum()
    # both hold the noise of 30 real cells
    assert errors[0] < 0.85 * errors[1]


def test_counts_and_rates_of_other_genes(found: AnnData) -> None:
    other = ~found.var["in_model"].to_numpy()
    counts, rate = dense(found.layers["counts"])[:, other], np.asarray(found.layers["rate"])[:, other]
    assert (counts >= 0).all()
    assert (counts == np.floor(counts)).all()
    totals = found.obs["total_counts"].to_numpy(dtype=float)
    np.testing.assert_allclose(dense(found.X)[:, other], np.log1p(counts * 1e4 / totals[:, None]), rtol=1e-4)
    chosen = of(found, CONTEXTS[0], "A")
    sums = counts[chosen].sum(), rate[chosen].sum()
    assert sums[0] == pytest.approx(sums[1], rel=0.1)
    before = counts[of(found, CONTEXTS[0], "control")]
    assert ((counts[chosen] == 0) & (before > 0)).any()
    assert ((counts[chosen] > 0) & (before == 0)).any()


def test_controls_are_the_observed_cells(found: AnnData) -> None:
    cells = query()
    controls = found[~found.obs["deltavi_predicted"].to_numpy()]
    assert set(controls.obs_names) == set(cells.obs_names)
    assert (controls.obs["condition"] == "control").all()
    same = cells[controls.obs_names][:, found.var_names]
    np.testing.assert_array_equal(dense(controls.layers["counts"]), dense(same.X))
    totals = same.obs["total_counts"].to_numpy()
    np.testing.assert_allclose(dense(controls.X), np.log1p(dense(same.X) * 1e4 / totals[:, None]), rtol=1e-4)


def test_a_new_context_is_placed_by_its_control_cells(model: SCGEN, responses: ResponseModel) -> None:
    cells = query()
    cells.obs["context"] = cells.obs["context"].replace({CONTEXTS[0]: "another"})
    new = model.predict_perturbations(cells, control="control", contexts="another", responses=responses)
    assert get.predictions(new)["flags"].str.contains("new_context").all()


# -- independent draws ---------------------------------------------------------------------------------------


def test_independent_draws_are_independent(model: SCGEN, responses: ResponseModel) -> None:
    ask = {"control": "control", "contexts": CONTEXTS[0], "responses": responses, "perturbations": ["A", "B"]}
    first, second = (model.predict_perturbations(query(), draws="independent", seed=seed, **ask) for seed in (1, 2))
    matched = model.predict_perturbations(query(), **ask)
    np.testing.assert_array_equal(
        dense(first.X), dense(model.predict_perturbations(query(), draws="independent", seed=1, **ask).X)
    )

    def residuals(cells: AnnData) -> np.ndarray:
        rows = of(cells, CONTEXTS[0], "A")
        counts, rate = dense(cells.layers["counts"])[rows], np.asarray(cells.layers["rate"])[rows]
        residual = counts - rate
        return np.asarray(residual / np.maximum(residual.std(0), 0.1)).ravel()

    # of 40 cells x 120 genes a correlation by chance is about 0.015
    assert abs(np.corrcoef(residuals(first), residuals(second))[0, 1]) < 0.06
    x = dense(first.layers["counts"])
    np.testing.assert_allclose(
        dense(first.X), np.log1p(x * 1e4 / first.obs["total_counts"].to_numpy()[:, None]), rtol=1e-4
    )
    # and cells differ between perturbations by more than what these do
    assert abs(np.corrcoef(*(x[of(first, CONTEXTS[0], p)].ravel() for p in "AB"))[0, 1]) < 0.99
    means = [dense(cells.X)[of(cells, CONTEXTS[0], "A")].mean(0) for cells in (first, second, matched)]
    assert np.abs(means[0] - means[1]).max() > 0.01
    assert np.corrcoef(means[0], means[2])[0, 1] > 0.97


def test_one_prediction_takes_independent_draws(model: SCGEN) -> None:
    ask = {"control": "control", "perturbation": "A", "draws": "independent"}
    single = model.predict_perturbation(query(), **ask)
    assert single.uns["deltavi"]["draws"] == "independent"
    every = model.predict_perturbations(query(), control="control", draws="independent")
    np.testing.assert_array_equal(dense(every[single.obs_names].X), dense(single.X))


def test_a_query_may_lie_in_a_file(model: SCGEN, responses: ResponseModel, tmp_path: Path) -> None:
    cells = query()
    cells.write_h5ad(tmp_path / "query.h5ad")
    backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    ask = {"control": "control", "contexts": CONTEXTS[:2], "perturbations": "A", "responses": responses}
    expected = model.predict_perturbations(cells, **ask)
    np.testing.assert_array_equal(dense(model.predict_perturbations(backed, **ask).X), dense(expected.X))
    assert backed.isbacked
    backed.file.close()


def test_a_context_of_several_keys_is_found_by_their_values(model: SCGEN) -> None:
    cells = screen()
    cells.obs["donor"] = np.where(np.arange(cells.n_obs) % 2, "d1", "d2")
    keys = {"context_keys": ["context", "donor"], "size_factor_key": "total_counts"}
    responses = ResponseModel.fit(tl.responses(cells, condition_key="condition", control="control", **keys))
    asked = query()
    ask = {"control": "control", "contexts": CONTEXTS[0], "perturbations": "A", "responses": responses}
    asked.obs["donor"] = "d2"
    found = model.predict_perturbations(asked, **ask)
    assert get.predictions(found)["flags"].tolist() == [""]
    asked.obs["donor"] = "d3"
    other = model.predict_perturbations(asked, **ask)
    assert get.predictions(other)["flags"].tolist() == ["new_context"]


def test_scanpy_draws_and_tests_a_part_of_a_screen(model: SCGEN) -> None:
    ask = {"control": "control", "contexts": CONTEXTS[0]}
    cells = query()
    cells.obs["context"] = cells.obs["context"].astype("category")
    some = model.predict_perturbations(cells, perturbations=["B", "A"], controls=True, **ask)
    assert list(some.obs["context"].cat.categories) == [CONTEXTS[0]]
    assert set(some.obs["condition"].cat.categories) == {"control", "A", "B"}
    sc.pl.matrixplot(some, list(some.var_names[:3]), groupby="condition", show=False)
    single = model.predict_perturbation(cells, control="control", perturbation="A", labels=CONTEXTS[0])
    assert list(single.obs["condition"].cat.categories) == ["A"]
    sc.pl.dotplot(single, list(single.var_names[:3]), groupby=["condition", "context"], show=False)
    plt.close("all")


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all.h5ad", "all.zarr"])
def test_a_file_holds_what_memory_would(
    model: SCGEN, found: AnnData, responses: ResponseModel, tmp_path: Path, name: str
) -> None:
    ask = {"control": "control", "responses": responses, "controls": True}
    path = model.predict_perturbations(query(), path=tmp_path / name, **ask)
    assert path == tmp_path / name
    written = read(path)
    np.testing.assert_array_equal(dense(written.X), dense(found.X))
    for key in filter(None, found.layers):
        np.testing.assert_array_equal(dense(written.layers[key]), dense(found.layers[key]))
    for mapping in ("obsm", "varm"):
        for key in getattr(found, mapping):
            np.testing.assert_array_equal(getattr(written, mapping)[key], getattr(found, mapping)[key])
    assert (written.obs.astype(str) == found.obs.astype(str)).all().all()
    assert list(written.obs["condition"].cat.categories) == list(found.obs["condition"].cat.categories)
    assert (written.var == found.var).all().all()
    pd.testing.assert_frame_equal(get.predictions(written), get.predictions(found), check_dtype=False)
    assert [one.name for one in tmp_path.iterdir()] == [name]
    model.predict_perturbations(
        query(), path=path, overwrite=True, layers="counts", contexts=CONTEXTS[0], control="control"
    )
    assert [name for name in read(path).layers if name] == ["counts"]
    assert [one.name for one in tmp_path.iterdir()] == [name]


def peak_of_writing(model: SCGEN, responses: ResponseModel, n: int, path: Path) -> int:
    """Bytes at the peak of writing `n` perturbations of many cells."""
    cells = query()
    rows = np.tile(np.flatnonzero(cells.obs["context"] == CONTEXTS[0]), 20)
    obs = cells.obs.iloc[rows].set_axis([f"cell {i}" for i in range(len(rows))])
    many = AnnData(cells.X[rows], obs=obs, var=cells.var)
    names = ["A", "B", "C", "A+B", "A+C", "B+C", "A+B+C"][:n]
    gc.collect()
    tracemalloc.start()
    try:
        model.predict_perturbations(many, control="control", perturbations=names, responses=responses, path=path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_one_block(
    model: SCGEN, responses: ResponseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so that few blocks fill what waits to be written
    monkeypatch.setattr("deltavi.io._blocks.CHUNK_ENTRIES", 4096)
    peak_of_writing(model, responses, 1, tmp_path / "warm.zarr")
    few, many = (peak_of_writing(model, responses, n, tmp_path / f"{n}.zarr") for n in (2, 7))
    # five more blocks of expected counts alone are more than that
    n_cells = 20 * int((query().obs["context"] == CONTEXTS[0]).sum())
    assert many - few < 4 * n_cells * 120 * 4


# -- tables --------------------------------------------------------------------------------------------------


def test_treated_cells_fix_the_length_of_their_pair(model: SCGEN) -> None:
    adata = screen(seed=3)
    treated = adata[(adata.obs["condition"] == "A") & (adata.obs["context"] == CONTEXTS[0])][:6].copy()
    treated.obs_names = "treated " + treated.obs_names
    plain = model.predict_perturbations(query(), control="control")
    found = model.predict_perturbations(query(), control="control", treated=treated)
    differs = [
        (dense(found.X)[of(found, context, one)] != dense(plain.X)[of(plain, context, one)]).any()
        for context in CONTEXTS
        for one in "ABC"
    ]
    assert differs == [True] + [False] * 8
    assert found.uns["deltavi"]["treated"][["perturbation", "query"]].to_numpy().tolist() == [["A", CONTEXTS[0]]]


def test_the_table_of_genes_works_on_the_answer(found: AnnData, responses: ResponseModel) -> None:
    adata = found.copy()
    tl.differential_response(adata, responses, "A", contexts=CONTEXTS[0])
    assert set(get.response_df(adata)["gene"]) == set(found.var_names)
