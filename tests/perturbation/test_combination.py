"""Targets that join conditions, and the scale of an effect."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.model import SCGEN
from deltavi.perturbation import Shift, ShiftBaseline
from deltavi.perturbation.combination import check_effect_scale, combined_shift, parts_of
from deltavi.pp import highly_variable_genes

KNOWN = ["A", "B", "A+C", "control"]
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("perturbation", "parts"), [("A", ("A",)), ("A+B", ("A", "B")), (" A + B ", ("A", "B")), ("A+C", ("A+C",))]
)
def test_parts(perturbation: str, parts: tuple[str, ...]) -> None:
    assert parts_of(perturbation, KNOWN, control="control") == parts


@pytest.mark.parametrize(
    ("perturbation", "error", "said"),
    [
        ("D", UnknownCategoryError, "'D'"),
        ("A+D", UnknownCategoryError, "part of 'A\\+D' 'D'"),
        ("A+", UnknownCategoryError, "part of 'A\\+' ''"),
        ("A+A", DeltaviError, "pass effect_scale"),
        ("A+control", DeltaviError, "other than the control"),
    ],
)
def test_targets_that_cannot_be_joined(perturbation: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parts_of(perturbation, KNOWN, control="control")


@pytest.mark.parametrize("effect_scale", [np.nan, np.inf, "2", None, True])
def test_effect_scales_that_are_no_number(effect_scale: object) -> None:
    with pytest.raises(DeltaviError, match="effect_scale must be a number, 1 for the measured perturbation"):
        check_effect_scale(effect_scale)


def test_shifts_are_added_and_scaled() -> None:
    first = Shift(np.array([1.0, 2.0]), "gp", {"u": 1.0}, {"u": 5}, {"u": 6}, uncertainty=0.2)
    tables = {"u": 0.5, "v": 0.5}, {"u": 5, "v": 3}, {"u": 7, "v": 4}
    second = Shift(np.array([0.0, -1.0]), "gp", *tables, uncertainty=0.4)
    both = combined_shift({"A": first, "B": second}, 2.0)
    np.testing.assert_allclose(both.vector, [2, 2])
    assert both.weights == {"u (A)": 1.0, "u (B)": 0.5, "v (B)": 0.5}
    assert both.n_perturbed == {"u (A)": 6, "u (B)": 7, "v (B)": 4}
    assert both.uncertainty == 0.4
    assert combined_shift({"A": first}) is first
    np.testing.assert_allclose(combined_shift({"A": first}, -0.5).vector, [-0.5, -1])


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """Two treatments; the second is the first one's cells with other names, so that A and B do the same."""
    adata = simulate_perturbation(n_genes=300, n_cell_types=4, n_batches=1, n_cells_per_group=40, seed=3)
    names = adata.obs["condition"].astype(str).to_numpy(dtype=object)
    treated = np.flatnonzero(names == "stimulated")
    names[treated[::2]], names[treated[1::2]] = "A", "B"
    adata.obs["condition"] = names
    return highly_variable_genes(adata, n_top=200)


@pytest.fixture(scope="module")
def model(cells: AnnData) -> SCGEN:
    train = cells.copy()
    keys = {"condition_key": "condition", "labels_key": "cell_type", "size_factor_key": "total_counts"}
    SCGEN.setup_anndata(train, layer="counts", **keys)
    fitted = SCGEN(train, n_hidden=32, n_latent=8)
    fitted.train(20, **QUIET)
    return fitted


def mean(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.X.mean(0)).ravel()


@pytest.mark.parametrize("shift", ["paired", "similarity", "nearest", "gp", "global"])
def test_baseline_adds_the_shifts_of_the_parts(cells: AnnData, shift: str) -> None:
    baseline = ShiftBaseline(cells, condition_key="condition", labels_key="cell_type")
    ask = {"control": "control", "shift": shift, "clip": False}
    start = cells[cells.obs["condition"] == "control"]
    one, other, both = (baseline.predict_perturbation(perturbation=t, **ask) for t in ("A", "B", "A+B"))
    np.testing.assert_allclose(mean(both) - mean(start), mean(one) + mean(other) - 2 * mean(start), atol=1e-5)
    assert set(both.obs["condition"]) == {"A+B"}
    half = baseline.predict_perturbation(perturbation="A", effect_scale=0.5, **ask)
    np.testing.assert_allclose(mean(half) - mean(start), 0.5 * (mean(one) - mean(start)), atol=1e-5)


def test_model_adds_latent_shifts_and_changes(model: SCGEN) -> None:
    ask = {"control": "control", "labels": "type_1", "shift_scale": 1.0}
    one, other, both = (model.predict_perturbation(perturbation=t, **ask) for t in ("A", "B", "A+B"))
    moves = [p.obsm["X_deltavi"] - p.obsm["X_deltavi_control"] for p in (one, other, both)]
    np.testing.assert_allclose(moves[2], moves[0] + moves[1], atol=1e-5)
    assert list(both.obs["condition"].unique()) == ["A+B"]
    assert set(both.uns["deltavi"]["weights"]["training_label"]) >= {"type_2 (A)", "type_2 (B)"}
    agreed = model.predict_perturbation(control="control", perturbation="A+B", labels="type_1", empirical_weight=1.0)
    singles = [
        model.predict_perturbation(control="control", perturbation=t, labels="type_1", empirical_weight=1.0)
        for t in ("A", "B")
    ]
    wanted = sum(p.varm["deltavi_change"]["type_1"].to_numpy() for p in singles)
    expressed = mean(agreed) > 0.5
    found = agreed.varm["deltavi_change"]["type_1"].to_numpy()
    assert np.corrcoef(found[expressed], wanted[expressed])[0, 1] > 0.98


def test_dose_scales_the_response(model: SCGEN) -> None:
    ask = {"control": "control", "perturbation": "A", "labels": "type_1"}
    changes = [
        model.predict_perturbation(effect_scale=d, **ask).varm["deltavi_change"]["type_1"] for d in (0.0, 0.5, 1.0)
    ]
    sizes = [float(np.linalg.norm(change)) for change in changes]
    assert sizes[0] < 0.15 * sizes[2]
    assert sizes[0] < sizes[1] < sizes[2]
    for bad in (np.nan, "1", True):
        with pytest.raises(DeltaviError, match="effect_scale must be a finite number"):
            model.predict_perturbation(effect_scale=bad, **ask)


def test_unknown_part_is_named(model: SCGEN, cells: AnnData) -> None:
    baseline = ShiftBaseline(cells, condition_key="condition", labels_key="cell_type")
    for predict in (model.predict_perturbation, baseline.predict_perturbation):
        with pytest.raises(UnknownCategoryError, match="part of 'A\\+X' 'X'"):
            predict(control="control", perturbation="A+X")


def test_a_decoder_that_knows_the_condition_cannot_join(cells: AnnData) -> None:
    train = cells.copy()
    keys = {"condition_key": "condition", "labels_key": "cell_type", "size_factor_key": "total_counts"}
    SCGEN.setup_anndata(train, layer="counts", **keys)
    fitted = SCGEN(train, n_hidden=8, n_latent=2, condition_in_decoder=True, condition_mmd=10.0)
    fitted.train(2, **QUIET)
    with pytest.raises(DeltaviError, match="without condition_in_decoder"):
        fitted.predict_perturbation(control="control", perturbation="A+B")
    switched = fitted.predict_perturbation(control="control", perturbation="A", shift="none")
    assert switched.n_obs == (cells.obs["condition"] == "control").sum()


def test_the_penalty_makes_conditions_lie_alike(cells: AnnData) -> None:
    apart = []
    for weight in (0.0, 300.0):
        train = cells.copy()
        keys = {"condition_key": "condition", "labels_key": "cell_type", "size_factor_key": "total_counts"}
        SCGEN.setup_anndata(train, layer="counts", **keys)
        fitted = SCGEN(train, n_hidden=32, n_latent=4, condition_in_decoder=True, condition_mmd=weight)
        fitted.train(25, batch_size=64, **QUIET)
        z, condition = fitted.get_latent_representation(), train.obs["condition"].to_numpy()
        within = train.obs["cell_type"].to_numpy() == "type_2"
        distance = z[within & (condition == "control")].mean(0) - z[within & (condition != "control")].mean(0)
        apart.append(float(np.linalg.norm(distance) / z[within].std()))
    assert apart[1] < 0.5 * apart[0]
