"""Fitted models of responses: what they choose, say of themselves, and leave unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, ModelFileError, UnknownCategoryError
from deltavi.perturbation import RESPONSE_FLAGS, ResponseModel, ResponseTable
from deltavi.perturbation.crossed_kernel import ContextKernel, Weights
from deltavi.perturbation.crossed_process import Process, Queries
from deltavi.perturbation.crossed_skill import Skill, chosen, skill_of
from tests.perturbation.crossed_scenes import replaced, scene, structured

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def table() -> ResponseTable:
    return structured(0)


@pytest.fixture(scope="module")
def model(table: ResponseTable) -> ResponseModel:
    return ResponseModel.fit(table)


def noise_only(seed: int, n_contexts: int = 8, n_genes: int = 300) -> ResponseTable:
    rng = np.random.default_rng(seed)
    base = scene(seed, n_contexts, 1, n_genes)
    errors = base.squared_errors
    # genes are correlated, as those of the same cells are
    common = rng.normal(size=(n_contexts, 2)) @ rng.normal(size=(2, n_genes)) / np.sqrt(2)
    return replaced(base, changes=np.sqrt(errors / 2) * (common + rng.normal(size=errors.shape)))


# -- choices ---------------------------------------------------------------------------------------------------


def test_measured_pairs_are_denoised(model: ResponseModel, table: ResponseTable) -> None:
    found = model.predict(table.names[0], context=table.pairs[0][0])
    assert (
        (found.change[0] - table.changes[0]) ** 2 <= 4 * table.squared_errors[0] + 4 * found.variance[0]
    ).mean() > 0.9
    assert found.flags == ((),)
    assert model.has_evidence
    assert model.expected_skill["pair"] > 0.5


def test_combinations_are_sums_that_are_shrunken(model: ResponseModel) -> None:
    singles = model.predict(["drug 0", "drug 3"], context="type 2")
    both = model.predict("drug 3+drug 0", context="type 2")
    assert both.perturbations == ("drug 3+drug 0",)
    assert np.corrcoef(both.change[0], singles.change.sum(0))[0, 1] > 0.9
    assert (both.variance.sum() > singles.variance.sum(1)).all()


def test_what_nobody_measured_is_said_to_be_unknown(model: ResponseModel, table: ResponseTable) -> None:
    known = model.predict("drug 0", context="type 1")
    unseen = model.predict("drug 99", context="type 1")
    assert unseen.flags == (("new_perturbation",),)
    assert unseen.uncertainty[0] > known.uncertainty[0]
    new = model.predict("drug 0", profile=table.control_means[1] + 0.1, context="another")
    assert "new_context" in new.flags[0]
    assert new.context == "another"
    assert new.expected_skill == model.expected_skill["context"]
    assert known.expected_skill == model.expected_skill["pair"]
    assert set(RESPONSE_FLAGS) >= {*unseen.flags[0], *new.flags[0]}


def test_noise_is_answered_by_no_change() -> None:
    for seed in range(3):
        model = ResponseModel.fit(noise_only(seed))
        found = model.predict("drug 0", profile=model.table.control_means[0])
        assert not model.has_evidence
        assert not found.change.any()
        assert not found.weights.any()
        assert "no_evidence" in found.flags[0]
        lower, upper = found.interval()
        assert (lower < 0).all()
        assert (upper > 0).all()


def test_few_observations_are_answered_by_a_shrunken_mean() -> None:
    table = structured(1, 2, 1, 40)
    model = ResponseModel.fit(table)
    found = model.predict("drug 0", profile=table.control_means[0])
    mean = table.changes.mean(0)
    assert "shrunken_mean" in found.flags[0]
    assert np.corrcoef(found.change[0], mean)[0, 1] > 0.95
    assert (found.change[0] ** 2).sum() < (mean**2).sum()


def test_similarity_is_chosen_where_it_earns_its_place() -> None:
    rng = np.random.default_rng(0)
    base = scene(0, 12, 1, 80)
    place = rng.uniform(0, 3, 12)
    profiles = 3 + np.outer(place, rng.normal(size=80))
    loadings, random = rng.normal(size=(2, 80)), rng.normal(size=(12, 2))
    for of_contexts, expected in (
        (np.column_stack([np.sin(place), np.cos(place)]), "similarity"),
        (random, "identity"),
    ):
        noise = rng.normal(size=(12, 80)) * np.sqrt(base.squared_errors)
        table = replaced(base, control_means=profiles - profiles.min(), changes=of_contexts @ loadings + 0.3 + noise)
        model = ResponseModel.fit(table)
        assert model.kernel.name == expected
        assert set(model.skill_of_kernels) == {"identity", "similarity"}


def test_a_kernel_has_to_be_clearly_ahead() -> None:
    class Named:
        def __init__(self, errors: list[float]) -> None:
            self.skill = Skill(np.array(errors), np.ones(4))

    simple, lucky, better = Named([0.5] * 4), Named([0.1, 0.6, 0.2, 0.9]), Named([0.3, 0.25, 0.2, 0.35])
    assert chosen([simple, lucky]) is simple  # type: ignore[list-item]
    assert chosen([simple, better]) is better  # type: ignore[list-item]
    assert better.skill.n_worse == 0
    assert Skill(np.array([2.0, 0.5]), np.ones(2)).n_worse == 1


def test_skill_takes_the_noise_off() -> None:
    rng = np.random.default_rng(0)
    table = structured(3, n_genes=400)
    true = table.changes
    noise = np.sqrt(table.squared_errors) * rng.normal(size=true.shape)
    noisy = replaced(table, changes=true + noise)
    groups = np.arange(table.n_pairs)
    assert skill_of(noisy, true, groups).explained == pytest.approx(1, abs=0.02)
    assert skill_of(noisy, np.zeros_like(true), groups).explained == pytest.approx(0, abs=1e-12)


def test_keys_of_contexts_are_a_product(table: ResponseTable) -> None:
    levels = (("B", "1"), ("B", "2"), ("NK", "1"), ("NK", "2"), ("T", "1"), ("T", "2"))
    keyed = replaced(table, keys=("type", "donor"), levels=levels)
    kernel = ContextKernel("product", shared=(0.2, 0.5))
    np.testing.assert_allclose(kernel.between(keyed)[0], [1, 0.5, 0.2, 0.1, 0.2, 0.1])
    np.testing.assert_allclose(kernel.towards(keyed, None, ["NK", None]), [0.1, 0.1, 0.5, 0.5, 0.1, 0.1])
    model = ResponseModel.fit(keyed, kernel="product", group_key="donor")
    found = model.predict("drug 0", levels={"type": "NK", "donor": "3"})
    assert found.flags == (("new_context",),)


# -- intervals -------------------------------------------------------------------------------------------------


def test_intervals_hold_changes_of_contexts_left_out() -> None:
    held = []
    for seed in range(4):
        table = structured(seed, 6, 4, 60)
        for context in (0, 3):
            of_it = table.context_of == context
            model = ResponseModel.fit(table.of_pairs(~of_it), kernel="identity")
            asked = table.of_pairs(of_it)
            for row, name in enumerate(asked.names):
                if "+" in name:
                    continue
                found = model.predict(name, profile=table.control_means[context])
                ends = found.interval(0.9, n_perturbed=asked.n_perturbed[row], n_control=table.n_control[context])
                held.append(((asked.changes[row] >= ends[0][0]) & (asked.changes[row] <= ends[1][0])).mean())
    assert 0.85 < np.mean(held) < 0.99


def test_intervals_grow_with_coverage_and_noise(model: ResponseModel) -> None:
    found = model.predict("drug 1", context="type 0")
    narrow, wide = found.interval(0.5), found.interval(0.95)
    measured = found.interval(0.5, n_perturbed=20, n_control=20)
    assert (wide[1] - wide[0] > narrow[1] - narrow[0]).all()
    assert (measured[1] - measured[0] > narrow[1] - narrow[0]).all()
    np.testing.assert_allclose((narrow[0] + narrow[1]) / 2, found.change)
    frame = found.as_frame(coverage=0.5)
    np.testing.assert_allclose(frame["lower"], narrow[0][0])
    assert list(frame.index) == list(model.table.genes)
    for wrong in (0, 1, 1.5, "90 %"):
        with pytest.raises(DeltaviError, match="coverage"):
            found.interval(wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownCategoryError, match="drug 1"):
        found.as_frame("drug one")


# -- properties ------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_neither_the_order_of_pairs_nor_that_of_genes_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, weights = scene(seed % 1000), Weights(*rng.dirichlet(np.ones(5)))
    kernel = ContextKernel("similarity", 4.0)
    pairs, genes = rng.permutation(table.n_pairs), rng.permutation(table.n_genes)
    plain, mixed = (Process.of(t, kernel, weights) for t in (table, table.of_pairs(pairs).of_genes(genes)))
    asked = table.of_pairs(np.arange(2))
    found = plain.predict(Queries.of_pairs(plain, asked))
    other = mixed.predict(Queries.of_pairs(mixed, asked.of_genes(genes)))
    # similarities are sums over genes, in another order
    np.testing.assert_allclose(other.change, found.change[:, genes], atol=1e-9)
    np.testing.assert_allclose(other.variance, found.variance[:, genes], rtol=1e-7)
    np.testing.assert_allclose(other.weights, found.weights[:, pairs], atol=1e-9)


def test_a_context_without_pairs_changes_nothing(table: ResponseTable, model: ResponseModel) -> None:
    wider = replaced(
        table,
        n_control=np.append(table.n_control, 7),
        control_means=np.vstack([table.control_means, 9 + np.zeros(table.n_genes)]),
        variances=np.vstack([table.variances, table.variances[:1]]),
        contexts=(*table.contexts, "empty"),
        levels=(*table.levels, ("empty",)),
    )
    found = ResponseModel.fit(wider)
    assert found.kernel == model.kernel
    before, after = (one.predict("drug 2", context="type 3") for one in (model, found))
    np.testing.assert_allclose(after.change, before.change, atol=1e-8)
    assert "new_context" in found.predict("drug 2", context="empty").flags[0]


def test_fits_are_the_same_each_time(table: ResponseTable, model: ResponseModel) -> None:
    again = ResponseModel.fit(table).predict("drug 2", context="type 3")
    np.testing.assert_array_equal(again.change, model.predict("drug 2", context="type 3").change)


def test_predictions_of_several_are_those_of_each(model: ResponseModel, table: ResponseTable) -> None:
    names = [*table.perturbations, *[f"{a}+{b}" for a in table.perturbations for b in table.perturbations if a < b]]
    together = model.predict(names, context="type 0")
    assert len(names) > 32
    for row in (0, 31, 32, len(names) - 1):
        np.testing.assert_allclose(
            together.change[row], model.predict(names[row], context="type 0").change[0], atol=1e-10
        )


def test_leave_one_out_explains_what_it_says(model: ResponseModel, table: ResponseTable) -> None:
    change, variance = model.loo()
    assert change.shape == variance.shape == table.changes.shape
    assert (variance > 0).all()
    groups = np.arange(table.n_pairs)
    assert skill_of(table, change, groups).explained == pytest.approx(model.expected_skill["pair"], abs=0.1)


def test_few_treated_cells_tell_a_context_that_is_new(model: ResponseModel, table: ResponseTable) -> None:
    rng = np.random.default_rng(0)
    truth = model.predict("drug 0", context="type 1").change[0] * 2.5
    few = ResponseTable(
        changes=truth[None] + rng.normal(size=(1, table.n_genes)) * np.sqrt(table.variance / 5),
        context_of=np.array([0]),
        parts=np.ones((1, 1)),
        n_perturbed=np.array([5]),
        n_control=np.array([100]),
        control_means=table.control_means[:1] + 0.2,
        variances=table.variance,
        contexts=("query",),
        perturbations=("drug 0",),
        genes=table.genes,
    )
    blind = model.predict("drug 0", profile=few.control_means[0])
    seeing = model.with_observation(few).predict("drug 0", context="query")
    assert ((seeing.change[0] - truth) ** 2).sum() < 0.1 * ((blind.change[0] - truth) ** 2).sum()
    assert seeing.variance.sum() < blind.variance.sum()
    with pytest.raises(GeneMatchError, match="other genes"):
        model.with_observation(few.of_genes(np.arange(3)))


# -- files -----------------------------------------------------------------------------------------------------


def test_saved_models_answer_as_before(model: ResponseModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = ResponseModel.load(tmp_path / "model")
    before, after = (one.predict(["drug 1", "drug 9"], context="type 2") for one in (model, loaded))
    for name in ("change", "variance", "uncertainty", "weights"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-12)
    assert after.flags == before.flags
    assert loaded.expected_skill == model.expected_skill
    assert loaded.table.pairs == model.table.pairs
    with pytest.raises(ModelFileError, match="overwrite=True"):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", overwrite=True)


def test_files_of_others_are_refused(model: ResponseModel, tmp_path: Path) -> None:
    from deltavi.io import write_model

    write_model(tmp_path / "other", {}, {"class": "SCGEN"})
    with pytest.raises(ModelFileError, match="holds a SCGEN"):
        ResponseModel.load(tmp_path / "other")
    with pytest.raises(ModelFileError, match="not a saved"):
        ResponseModel.load(tmp_path)
    for saved in ({"version": 1}, {"version": 2}, {"version": 1, "table": {"levels": [["a"]], "changes": 3}}):
        write_model(tmp_path / "damaged", {}, {"class": "ResponseModel", **saved})
        with pytest.raises(ModelFileError, match=r"damaged|newer"):
            ResponseModel.load(tmp_path / "damaged")
    model.save(tmp_path / "cut")
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    file = tmp_path / "cut" / manifest["files"]["model.json"]
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ModelFileError, match="truncated"):
        ResponseModel.load(tmp_path / "cut")


# -- bad input -------------------------------------------------------------------------------------------------


def test_questions_that_cannot_be_read_say_why(model: ResponseModel) -> None:
    n_genes = model.table.n_genes
    with pytest.raises(UnknownCategoryError, match="Did you mean 'type 1'"):
        model.predict("drug 0", context="Type1")
    with pytest.raises(DeltaviError, match="context must be named"):
        model.predict("drug 0")
    with pytest.raises(InputDataError, match="is the control"):
        model.predict("control", context="type 0")
    with pytest.raises(DeltaviError, match="at least one"):
        model.predict([], context="type 0")
    with pytest.raises(InputDataError, match=f"each of the {n_genes} genes"):
        model.predict("drug 0", profile=np.zeros(3))
    with pytest.raises(InputDataError, match="negative, NaN"):
        model.predict("drug 0", profile=np.full(n_genes, np.nan))
    with pytest.raises(DeltaviError, match="no key of the contexts"):
        model.predict("drug 0", levels={"donor": "1"})
    with pytest.raises(DeltaviError, match="is in the table"):
        model.predict("drug 0", context="type 0", profile=np.zeros(n_genes))
    with pytest.raises(DeltaviError, match="has no argument 'profil'"):
        ResponseModel(fitted=model.fitted, profil=1)  # type: ignore[call-arg]


def test_settings_that_do_not_exist_are_named(table: ResponseTable) -> None:
    with pytest.raises(DeltaviError, match="similarity"):
        ResponseModel.fit(table, kernel="similarities")
    with pytest.raises(DeltaviError, match="several keys"):
        ResponseModel.fit(table, kernel="product")
    with pytest.raises(UnknownCategoryError, match="donor"):
        ResponseModel.fit(table, group_key="donor")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"changes": np.zeros((2, 2))}, "changes must be pairs x genes"),
        ({"changes": "nan"}, "NaN or infinite"),
        ({"n_perturbed": 0.0}, "at least one"),
        ({"n_control": 0.0}, "at least one"),
        ({"parts": 0.0}, "at least one perturbation"),
        ({"variances": -1.0}, "must not be negative"),
        ({"variances": 0.0}, "two cells at least"),
        ({"context_of": 99}, "between 0 and 3"),
        ({"genes": ("a",) * 6}, "more than once"),
        ({"levels": (("a", "b"),) * 4}, "levels must hold"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(wrong: dict[str, object], message: str) -> None:
    table = scene(0)
    ((name, value),) = wrong.items()
    if isinstance(value, float | int):
        wrong = {name: np.full_like(getattr(table, name), value)}
    if isinstance(value, str):
        wrong = {name: np.full_like(table.changes, np.nan)}
    with pytest.raises(InputDataError, match=message):
        replaced(table, **wrong)
