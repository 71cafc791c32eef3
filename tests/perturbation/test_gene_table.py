"""The table of genes: what it states comes true in experiments drawn from the stated distributions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownArgumentError
from deltavi.perturbation import (
    Experiment,
    GeneTable,
    calibrated,
    called_genes,
    expected_false_discoveries,
    gene_table,
    recalibration,
)
from deltavi.perturbation.called import MeasuredChange

PER_GENE = ("change", "variance", "cell_variance", "control_mean")


def predicted(rng: np.random.Generator, n_genes: int = 3000, freedom: float = 5.0) -> dict[str, Any]:
    """A response of few large changes among many small ones, some of them well known and some not."""
    size = np.where(rng.random(n_genes) < 0.15, 0.6, 0.03)
    return {
        "change": size * rng.standard_normal(n_genes),
        "variance": (0.3 * size + 0.02) ** 2 * rng.uniform(0.5, 2, n_genes),
        "degrees_of_freedom": freedom,
        "cell_variance": rng.uniform(0.05, 0.8, n_genes),
        "control_mean": rng.uniform(0, 2, n_genes),
    }


def table_of(given_: dict[str, Any], experiment: Experiment, **options: Any) -> GeneTable:
    return gene_table(**given_, experiment=experiment, **options)


def draw(given_: dict[str, Any], experiment: Experiment, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """True changes of one world, and the genes that an experiment in it calls."""
    freedom, n_genes = given_["degrees_of_freedom"], len(given_["change"])
    noise = rng.standard_normal(n_genes) if np.isinf(freedom) else rng.standard_t(freedom, n_genes)
    true = given_["change"] + np.sqrt(given_["variance"]) * noise
    measured = true + experiment.standard_error(given_["cell_variance"]) * rng.standard_normal(len(true))
    return true, called_genes(measured, given_["cell_variance"], experiment=experiment)


@pytest.fixture(scope="module", params=[(60, 240, 3.0), (200, 200, 8.0), (20, 20, np.inf)], ids=str)
def worlds(request: Any) -> dict[str, Any]:
    """A prediction, its table, and forty worlds that are drawn from it."""
    n_perturbed, n_control, freedom = request.param
    rng = np.random.default_rng(int(n_perturbed))
    given_ = predicted(rng, freedom=freedom)
    experiment = Experiment(n_perturbed, n_control)
    drawn = [draw(given_, experiment, rng) for _ in range(40)]
    true, called = (np.stack(found) for found in zip(*drawn, strict=True))
    return {"given": given_, "table": table_of(given_, experiment), "true": true, "called": called}


class TestWhatIsStatedComesTrue:
    def test_probability_of_a_call(self, worlds: dict[str, Any]) -> None:
        probability, share = worlds["table"].probability_called, worlds["called"].mean(axis=0)
        assert abs(probability.mean() - share.mean()) < 0.005
        for low in np.arange(0, 1, 0.1):
            within = (probability >= low) & (probability <= low + 0.1)
            if within.sum() > 20:
                assert abs(probability[within].mean() - share[within].mean()) < 0.03

    def test_calibration_error(self, worlds: dict[str, Any]) -> None:
        called = worlds["called"].ravel()
        p = np.tile(worlds["table"].probability_called, len(worlds["called"]))
        bins = np.minimum((p * 10).astype(int), 9)
        error = sum(abs(p[bins == b].sum() - called[bins == b].sum()) for b in range(10)) / len(p)
        assert error <= 0.01

    @pytest.mark.parametrize("stated", [0.05, 0.1, 0.2])
    def test_false_discovery_rate(self, worlds: dict[str, Any], stated: float) -> None:
        table = worlds["table"]
        chosen = table.false_discovery_rate <= stated
        found = 1 - worlds["called"][:, chosen].mean()
        assert chosen.sum() > 20
        assert abs(found - (1 - table.probability_called[chosen].mean())) < 0.01
        assert found <= stated + 0.02

    def test_sign_errors_are_the_false_sign_rate(self, worlds: dict[str, Any]) -> None:
        wrong = np.sign(worlds["true"]) != np.sign(worlds["table"].change)
        rate = worlds["table"].local_false_sign_rate
        assert wrong.mean() == pytest.approx(rate.mean(), abs=0.005)
        for low, high in ((0, 0.01), (0.01, 0.1), (0.1, 0.3), (0.3, 0.5)):
            within = (rate >= low) & (rate <= high)
            assert wrong[:, within].mean() == pytest.approx(rate[within].mean(), abs=0.01)

    def test_interval(self, worlds: dict[str, Any]) -> None:
        table = worlds["table"]
        inside = (worlds["true"] >= table.lower) & (worlds["true"] <= table.upper)
        assert inside.mean() == pytest.approx(0.9, abs=0.005)

    def test_threshold_is_that_of_the_experiments(self, worlds: dict[str, Any]) -> None:
        table, given_ = worlds["table"], worlds["given"]
        expected = 0.05 * worlds["called"].sum(axis=1).mean() / len(given_["change"])
        assert np.log(table.p_threshold) == pytest.approx(np.log(expected), abs=0.1)


class TestRecalibration:
    @pytest.fixture
    def overconfident(self) -> dict[str, Any]:
        """Tables of ten training labels and a query whose stated variance is a ninth of the true one."""
        rng = np.random.default_rng(3)
        experiment = Experiment(100, 300)
        tables, called = [], []
        for _ in range(11):
            given_ = predicted(rng, 2000)
            called.append(draw(given_ | {"variance": 9 * given_["variance"]}, experiment, rng)[1])
            tables.append(table_of(given_, experiment))
        return {"tables": tables, "called": called}

    def test_repairs_what_is_stated_too_boldly(self, overconfident: dict[str, Any]) -> None:
        tables, called = overconfident["tables"], overconfident["called"]
        learned = recalibration([t.probability_called for t in tables[:-1]], np.stack(called[:-1]))
        before, after = tables[-1], calibrated(tables[-1], learned)

        def errors(table: GeneTable) -> tuple[float, float]:
            chosen = table.false_discovery_rate <= 0.1
            bins = np.minimum((table.probability_called * 10).astype(int), 9)
            gaps = [
                abs(table.probability_called[bins == b].sum() - called[-1][bins == b].sum()) for b in np.unique(bins)
            ]
            return sum(gaps) / len(called[-1]), 1 - called[-1][chosen].mean()

        (error_before, found_before), (error_after, found_after) = errors(before), errors(after)
        assert error_after <= 0.03
        assert error_after < error_before
        assert found_after <= 0.12 < found_before
        assert learned.n_genes == 20_000

    def test_order_of_genes_is_kept_and_the_rest_unchanged(self, overconfident: dict[str, Any]) -> None:
        tables, called = overconfident["tables"], overconfident["called"]
        learned = recalibration(tables[0].probability_called, called[0])
        after = calibrated(tables[1], learned)
        order = np.argsort(tables[1].probability_called)
        assert (np.diff(after.probability_called[order]) >= 0).all()
        assert after.is_calibrated
        assert not tables[1].is_calibrated
        for name in ("change", "lower", "upper", "log2_fold_change", "local_false_sign_rate"):
            np.testing.assert_array_equal(getattr(after, name), getattr(tables[1], name))

    def test_is_isotonic_regression(self) -> None:
        sklearn = pytest.importorskip("sklearn.isotonic")
        rng = np.random.default_rng(0)
        p = rng.uniform(size=20_000)
        called = rng.uniform(size=20_000) < p**2
        fit = sklearn.IsotonicRegression(out_of_bounds="clip").fit(p, called)
        asked = np.linspace(0.02, 0.98, 50)
        np.testing.assert_allclose(recalibration(p, called)(asked), fit.predict(asked), atol=0.05)
        np.testing.assert_allclose(recalibration(p, called)(asked), asked**2, atol=0.04)

    @given(
        st.integers(1, 60).flatmap(
            lambda n: st.tuples(
                arrays(np.float64, n, elements=st.floats(0, 1).map(lambda x: round(x, 2))), arrays(bool, n)
            )
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_never_falls_and_is_never_certain(self, given_: tuple[np.ndarray, np.ndarray]) -> None:
        learned = recalibration(*given_)
        found = learned(np.linspace(0, 1, 41))
        assert (np.diff(found) >= -1e-12).all()
        assert 0 < found.min() <= found.max() < 1

    def test_twice_is_refused(self) -> None:
        table = table_of(predicted(np.random.default_rng(0), 50), Experiment(20, 20))
        learned = recalibration([0.0, 1.0], [False, True])
        with pytest.raises(DeltaviError, match="recalibrated before"):
            calibrated(calibrated(table, learned), learned)

    @pytest.mark.parametrize(
        ("probability", "called", "words"),
        [
            ([0.1, 0.2], [True], r"called must hold a truth value for each probability: \(2,\), but shape \(1,\)"),
            ([0.1, 1.2], [True, False], "probability must lie between 0 and 1, but holds 1.2"),
            ([0.1, np.nan], [True, False], "probability is missing or infinite for 1 of 2 genes"),
            ([0.1, 0.3], [3, 0], "called must hold truth values"),
            ([], [], "probability must hold one number per gene"),
        ],
    )
    def test_bad_input(self, probability: Any, called: Any, words: str) -> None:
        with pytest.raises(InputDataError, match=words):
            recalibration(probability, called)


class TestFormulas:
    def test_probability_beyond_is_the_integral_over_the_t(self) -> None:
        change, variance, error, cut = 0.3, 0.04, 0.15, 0.4
        for freedom in (1.5, 4.0, 30.0):
            measured = MeasuredChange.of(
                *(np.array([value]) for value in (change, variance, freedom)), np.array([error])
            )

            def density(d: float, freedom: float = freedom) -> float:
                outside = stats.norm.sf(cut, d, error) + stats.norm.cdf(-cut, d, error)
                return float(outside * stats.t.pdf(d, freedom, change, np.sqrt(variance)))

            expected = integrate.quad(density, -30, 30, points=[-1, 0, 0.3, 1], limit=400)[0]
            assert measured.beyond(np.array([cut]))[0] == pytest.approx(expected, abs=0.003)

    def test_fold_changes(self) -> None:
        given_ = predicted(np.random.default_rng(1), 100)
        experiment = Experiment(50, 50)
        one = table_of(given_, experiment)
        np.testing.assert_allclose(one.log2_fold_change, given_["change"] / np.log(2))
        near = table_of(given_, experiment, pseudocount=1 + 1e-9)
        shown = given_["change"] + given_["control_mean"] > 0
        np.testing.assert_allclose(near.log2_fold_change[shown], one.log2_fold_change[shown], atol=1e-6)
        other = table_of(given_, experiment, pseudocount=0.1).to_frame()
        after = np.expm1(np.maximum(given_["control_mean"] + given_["change"], 0))
        expected = np.log2((after + 0.1) / (np.expm1(given_["control_mean"]) + 0.1))
        np.testing.assert_allclose(other["log2_fold_change"], expected)
        assert (other["log2_lower"] <= other["log2_fold_change"]).all()
        assert (other["log2_fold_change"] <= other["log2_upper"]).all()

    def test_false_discovery_rate_by_hand(self) -> None:
        found = expected_false_discoveries([0.9, 0.5, 1.0, 0.5])
        np.testing.assert_allclose(found, [0.05, 0.275, 0.0, 0.275])

    def test_calls_are_those_of_a_test_adjusted_by_hand(self) -> None:
        rng = np.random.default_rng(5)
        x, y = rng.normal(0, 1, (40, 200)), rng.normal(np.repeat([0, 1], 100), 1, (30, 200))
        pooled = (x.var(axis=0, ddof=1) * 39 + y.var(axis=0, ddof=1) * 29) / 68
        called = called_genes(y.mean(axis=0) - x.mean(axis=0), pooled, experiment=Experiment(30, 40))
        p = stats.ttest_ind(y, x, axis=0).pvalue
        np.testing.assert_array_equal(called, stats.false_discovery_control(p) <= 0.05)

    def test_least_change(self) -> None:
        called = called_genes([0.05, 0.3], 1e-4, experiment=Experiment(50, 50, min_change=0.1))
        assert called.tolist() == [False, True]
        rng = np.random.default_rng(8)
        given_ = predicted(rng)
        experiment = Experiment(500, 500, min_change=0.2)
        table = table_of(given_, experiment)
        share = np.mean([draw(given_, experiment, rng)[1] for _ in range(30)], axis=0)
        assert abs(table.probability_called - share).mean() < 0.03


class TestLimits:
    def test_certain_changes_of_a_large_experiment(self) -> None:
        table = gene_table(
            [0.0, 0.5, -0.5], 0, 5, cell_variance=0.5, control_mean=[1, 1, 1], experiment=Experiment(10**7, 10**7)
        )
        np.testing.assert_allclose(table.probability_called[1:], 1)
        assert table.probability_called[0] < 0.05
        np.testing.assert_array_equal(table.local_false_sign_rate, [0.5, 0, 0])
        np.testing.assert_array_equal(table.lower, table.upper)

    def test_cells_that_do_not_vary(self) -> None:
        table = gene_table(
            [0.0, 0.5, 0.2], [0, 0, 0.04], 5, cell_variance=0, control_mean=[1, 1, 1], experiment=Experiment(9, 9)
        )
        np.testing.assert_allclose(table.probability_called, [0, 1, 1])
        np.testing.assert_allclose(table.false_discovery_rate, [1 / 3, 0, 0], atol=1e-12)

    def test_no_effect_at_all(self) -> None:
        table = gene_table(
            np.zeros(500), 0, 5, cell_variance=0.5, control_mean=np.ones(500), experiment=Experiment(9, 9)
        )
        assert table.p_threshold == pytest.approx(0.05 / 500)
        assert (table.probability_called <= 0.05 / 500).all()
        assert (table.false_discovery_rate > 0.99).all()

    def test_a_normal_is_the_limit_of_many_degrees_of_freedom(self) -> None:
        given_ = predicted(np.random.default_rng(2), 300)
        one, other = (table_of(given_ | {"degrees_of_freedom": d}, Experiment(50, 50)) for d in (np.inf, 1e6))
        pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), atol=1e-4)


class TestProperties:
    @given(seed=st.integers(0, 1000), n_genes=st.integers(1, 40), freedom=st.floats(0.5, 50), n=st.integers(2, 400))
    @settings(max_examples=40, deadline=None)
    def test_ranges_and_orders(self, seed: int, n_genes: int, freedom: float, n: int) -> None:
        given_ = predicted(np.random.default_rng(seed), n_genes, freedom)
        table = table_of(given_, Experiment(n, n))
        frame = table.to_frame()
        assert frame["probability_called"].between(0, 1).all()
        assert frame["local_false_sign_rate"].between(0, 0.5).all()
        assert frame["false_discovery_rate"].between(0, 1).all()
        assert (frame["lower"] <= frame["change"]).all()
        assert (frame["change"] <= frame["upper"]).all()
        by_probability = frame.sort_values("probability_called", ascending=False)
        assert (np.diff(by_probability["false_discovery_rate"]) >= -1e-12).all()
        assert 0.05 / n_genes * (1 - 1e-9) <= table.p_threshold <= 0.05

    def test_order_of_genes_does_not_matter(self) -> None:
        given_ = predicted(np.random.default_rng(4), 200)
        order = np.random.default_rng(0).permutation(200)
        shuffled = {k: v[order] if k in PER_GENE else v for k, v in given_.items()}
        one, other = (table_of(g, Experiment(80, 80)).to_frame() for g in (given_, shuffled))
        np.testing.assert_allclose(one.to_numpy()[order], other.to_numpy(), atol=1e-9)

    def test_signs_are_symmetric(self) -> None:
        given_ = predicted(np.random.default_rng(4), 200)
        one = table_of(given_, Experiment(80, 80))
        other = table_of(given_ | {"change": -given_["change"]}, Experiment(80, 80))
        np.testing.assert_allclose(one.lower, -other.upper)
        np.testing.assert_allclose(one.probability_called, other.probability_called)
        np.testing.assert_allclose(one.log2_fold_change, -other.log2_fold_change)

    def test_more_cells_call_more(self) -> None:
        given_ = predicted(np.random.default_rng(4), 500)
        totals = [table_of(given_, Experiment(n, n)).probability_called.sum() for n in (5, 20, 100, 1000)]
        assert (np.diff(totals) > 0).all()

    def test_one_number_stands_for_all_genes(self) -> None:
        every = predicted(np.random.default_rng(4), 20) | {"variance": np.full(20, 0.01)}
        one, other = (
            table_of(every | {"variance": v, "degrees_of_freedom": d}, Experiment(9, 9)).to_frame()
            for v, d in ((0.01, 4), (np.full(20, 0.01), np.full(20, 4.0)))
        )
        pd.testing.assert_frame_equal(one, other)

    def test_names(self) -> None:
        given_ = predicted(np.random.default_rng(4), 3)
        frame = table_of(given_, Experiment(9, 9), genes=["A", "B", "C"]).to_frame()
        assert list(frame.index) == ["A", "B", "C"]
        assert list(table_of(given_, Experiment(9, 9)).to_frame().index) == [0, 1, 2]

    def test_input_is_left_alone(self) -> None:
        given_ = predicted(np.random.default_rng(4), 30)
        before = {k: np.copy(v) for k, v in given_.items()}
        table_of(given_, Experiment(9, 9))
        assert all(np.array_equal(before[k], given_[k]) for k in given_)

    def test_all_genes_of_a_genome_take_seconds(self) -> None:
        table = table_of(predicted(np.random.default_rng(0), 18_000), Experiment(300, 300))
        assert np.isfinite(table.to_frame().to_numpy()).all()


class TestBadInput:
    @pytest.mark.parametrize(
        ("given_", "kind", "words"),
        [
            ({"change": [[0.1]]}, InputDataError, "change must hold one number per gene, but has shape"),
            ({"change": []}, InputDataError, "change must hold one number per gene"),
            ({"change": ["a", "b", "c"]}, InputDataError, "change must hold one number per gene"),
            (
                {"change": [0, np.nan, 1]},
                InputDataError,
                r"change is missing or infinite for 1 of 3 genes \(.* genes 1",
            ),
            ({"variance": [0.1, 0.1]}, InputDataError, "variance must hold one number per gene: 3 changes, but has"),
            ({"variance": -1}, InputDataError, "variance is below 0 for 3 of 3 genes"),
            ({"variance": np.ma.masked_less([1, -1, 1], 0)}, InputDataError, "variance has masked entries"),
            ({"degrees_of_freedom": 0}, InputDataError, "degrees_of_freedom must lie above 0"),
            ({"degrees_of_freedom": np.nan}, InputDataError, "degrees_of_freedom is missing"),
            ({"cell_variance": -0.5}, InputDataError, "cell_variance is below 0"),
            ({"control_mean": [1, 1, -1]}, InputDataError, "control_mean is below 0 for 1 of 3"),
            ({"level": 1}, DeltaviError, "level must lie between 0 and 1"),
            ({"pseudocount": 0}, DeltaviError, "pseudocount must be a number above 0"),
            ({"genes": ["A"]}, GeneMatchError, "genes must name each of 3 genes, but holds 1 names"),
            ({"genes": ["A", "B", "A"]}, GeneMatchError, "genes names 'A' more than once"),
        ],
    )
    def test_of_a_table(self, given_: dict[str, Any], kind: type[Exception], words: str) -> None:
        good = {"change": [0.1, 0.2, 0.3], "variance": 0.1, "degrees_of_freedom": 5, "cell_variance": 0.5}
        with pytest.raises(kind, match=words):
            gene_table(**(good | {"control_mean": [1, 1, 1], "experiment": Experiment(9, 9)} | given_))

    @pytest.mark.parametrize(
        ("given_", "words"),
        [
            ({"n_perturbed": 1}, "n_perturbed must be a whole number of at least 2"),
            ({"n_control": 2.5}, "n_control must be a whole number"),
            ({"alpha": 0}, "alpha must lie between 0 and 1"),
            ({"alpha": 1}, "alpha must lie between 0 and 1"),
            ({"min_change": -0.1}, "min_change must be a number of at least 0"),
        ],
    )
    def test_of_an_experiment(self, given_: dict[str, Any], words: str) -> None:
        with pytest.raises(DeltaviError, match=words):
            Experiment(**({"n_perturbed": 9, "n_control": 9} | given_))

    def test_misspelt(self) -> None:
        with pytest.raises(UnknownArgumentError, match="'pseudocount'"):
            gene_table([0.1], 0.1, 5, pseudo_count=1)  # type: ignore[call-arg]


def test_signatures_are_short() -> None:
    for function in (gene_table, recalibration, calibrated, called_genes):
        parameters = inspect.signature(function).parameters.values()
        assert sum(p.kind is not p.KEYWORD_ONLY for p in parameters) <= 3


def test_labels_count_alike_however_many_genes_they_call() -> None:
    n_genes = 4000
    stated, called = np.zeros((2, n_genes)), np.zeros((2, n_genes), dtype=bool)
    # one label states 1,000 calls and has them all, one states 100 and has every second
    stated[0, :1000], called[0, :1000] = 0.9, True
    stated[1, :100], called[1, :50] = 0.9, True
    learned = recalibration(stated, called)
    assert learned([0.9])[0] == pytest.approx(0.75, abs=0.01)
    # without a second axis all genes are of one label
    assert recalibration(stated.ravel(), called.ravel())([0.9])[0] == pytest.approx(1050 / 1100, abs=0.01)
