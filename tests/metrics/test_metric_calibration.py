"""Calibration of predicted labels: against scikit-learn, a plain loop, and simulations whose answer is known."""

from __future__ import annotations

import dataclasses
import inspect
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.metrics import Calibration, calibration

SEEDS = st.integers(0, 2**32 - 1)
LABELS = ["B", "CD8+/CD45RA+ Naive Cytotoxic", "NK", "T"]
NUMBERS = ["ece", "brier", "log_loss", "accuracy", "mean_confidence"]


def simulated(seed: int, n_cells: int = 60, n_labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, some of them tied, and codes that are drawn from other probabilities."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(n_labels, 0.5), n_cells) + 1e-6
    p[: n_cells // 6] = 1.0
    return p / p.sum(1, keepdims=True), rng.integers(0, n_labels, n_cells)


def as_frame(p: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(p, columns=LABELS[: p.shape[1]], index=[f"cell{i}" for i in range(len(p))])


def numbers(result: Calibration) -> list[float]:
    return [getattr(result, name) for name in NUMBERS]


def ece_by_loop(p: np.ndarray, codes: np.ndarray, n_bins: int) -> float:
    """The definition of Guo et al., one bin at a time; for probabilities without ties."""
    edges, error = np.linspace(0, 1, n_bins + 1), 0.0
    for lower, upper in itertools.pairwise(edges):
        members = [i for i in range(len(p)) if lower < max(p[i]) <= upper]
        if members:
            accuracy = np.mean([list(p[i]).index(max(p[i])) == codes[i] for i in members])
            confidence = np.mean([max(p[i]) for i in members])
            error += len(members) / len(p) * abs(accuracy - confidence)
    return error


class TestOracles:
    @given(seed=SEEDS, n_bins=st.integers(1, 40))
    @settings(deadline=None, max_examples=40)
    def test_ece_is_that_of_a_plain_loop(self, seed, n_bins):
        p, codes = simulated(seed)
        untied = slice(10, None)
        p, codes = p[untied], codes[untied]
        assert calibration(p, codes, n_bins=n_bins).ece == pytest.approx(ece_by_loop(p, codes, n_bins), abs=1e-12)

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_log_loss_and_accuracy_are_those_of_scikit_learn(self, seed):
        p, codes = simulated(seed)
        result = calibration(p[10:], codes[10:])
        assert result.log_loss == pytest.approx(sk.log_loss(codes[10:], p[10:], labels=range(4)))
        assert result.accuracy == pytest.approx(sk.accuracy_score(codes[10:], p[10:].argmax(1)))

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_brier_score_of_two_labels_is_twice_the_binary_one(self, seed):
        p, codes = simulated(seed, n_labels=2)
        assert calibration(p, codes).brier == pytest.approx(2 * sk.brier_score_loss(codes, p[:, 1], pos_label=1))

    @pytest.mark.skipif(
        "scale_by_half" not in inspect.signature(sk.brier_score_loss).parameters,
        reason="this scikit-learn has no Brier score of several labels",
    )
    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_brier_score_of_several_labels(self, seed):
        p, codes = simulated(seed)
        expected = sk.brier_score_loss(codes, p, labels=range(4), scale_by_half=False)
        assert calibration(p, codes).brier == pytest.approx(expected)

    def test_by_hand(self):
        p = pd.DataFrame({"a": [0.9, 0.8, 0.6, 0.25], "b": [0.1, 0.2, 0.4, 0.75]})
        result = calibration(p, ["a", "b", "a", "b"], n_bins=2)
        assert result.accuracy == 0.75
        assert result.mean_confidence == pytest.approx(3.05 / 4)
        assert result.ece == pytest.approx(3.05 / 4 - 0.75)
        assert result.brier == pytest.approx((2 * 0.01 + 2 * 0.64 + 2 * 0.16 + 2 * 0.0625) / 4)
        assert result.log_loss == pytest.approx(-np.log([0.9, 0.2, 0.6, 0.75]).mean())
        assert result.n_cells == 4


class TestTable:
    @given(seed=SEEDS, n_bins=st.integers(1, 30))
    @settings(deadline=None, max_examples=30)
    def test_says_what_the_numbers_are_made_of(self, seed, n_bins):
        p, codes = simulated(seed)
        result = calibration(p, codes, n_bins=n_bins)
        table, filled = result.table, result.table.dropna()
        assert list(table.columns) == ["lower", "upper", "n_cells", "confidence", "accuracy"]
        assert len(table) == n_bins
        assert table["n_cells"].sum() == result.n_cells == 60
        assert (filled["n_cells"] > 0).all()
        assert (table.drop(filled.index)["n_cells"] == 0).all()
        assert (filled["confidence"] > filled["lower"]).all()
        assert (filled["confidence"] <= filled["upper"] + 1e-12).all()
        weights = filled["n_cells"] / 60
        assert (weights * filled["accuracy"]).sum() == pytest.approx(result.accuracy)
        assert (weights * filled["confidence"]).sum() == pytest.approx(result.mean_confidence)
        assert (weights * (filled["accuracy"] - filled["confidence"]).abs()).sum() == pytest.approx(result.ece)

    def test_upper_edges_belong_to_their_bin(self):
        p = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
        assert list(calibration(p, [0, 0, 0], n_bins=4).table["n_cells"]) == [0, 1, 1, 1]

    def test_rounding_beyond_one_stays_in_the_last_bin(self):
        assert calibration(np.array([[1.0004, 0.0]]), [0], n_bins=3).table["n_cells"].iloc[-1] == 1


class TestProperties:
    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_order_of_cells_does_not_matter(self, seed):
        p, codes = simulated(seed)
        order = np.random.default_rng(seed).permutation(len(p))
        one, other = calibration(p, codes), calibration(p[order], codes[order])
        assert numbers(one) == pytest.approx(numbers(other))
        pd.testing.assert_frame_equal(one.table, other.table)

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_order_of_labels_does_not_matter(self, seed):
        p, codes = simulated(seed)
        frame, truth = as_frame(p), np.array(LABELS)[codes]
        order = np.random.default_rng(seed).permutation(LABELS)
        one, other = calibration(frame, truth), calibration(frame[order], truth)
        assert numbers(one) == pytest.approx(numbers(other))
        pd.testing.assert_frame_equal(one.table, other.table)

    @given(codes=st.lists(st.integers(0, 3), min_size=1, max_size=30), n_bins=st.integers(1, 20))
    @settings(deadline=None, max_examples=40)
    def test_sure_and_right(self, codes, n_bins):
        result = calibration(np.eye(4)[codes], codes, n_bins=n_bins)
        assert (result.ece, result.brier, result.log_loss) == (0, 0, 0)
        assert (result.accuracy, result.mean_confidence) == (1, 1)

    @given(codes=st.lists(st.integers(0, 3), min_size=1, max_size=30))
    @settings(deadline=None, max_examples=20)
    def test_sure_and_wrong(self, codes):
        result = calibration(np.eye(4)[codes], [(code + 1) % 4 for code in codes])
        assert (result.ece, result.brier, result.log_loss, result.accuracy) == (1, 2, np.inf, 0)

    def test_no_idea(self):
        result = calibration(np.full((8, 4), 0.25), [0, 1, 2, 3, 0, 0, 0, 0])
        assert (result.accuracy, result.ece, result.brier) == (0.25, 0, 0.75)
        assert result.log_loss == pytest.approx(np.log(4))

    @pytest.mark.parametrize("n_labels", [2, 5])
    def test_error_of_a_calibrated_classifier_vanishes_and_that_of_a_sharpened_one_does_not(self, n_labels):
        def errors(n_cells: int) -> tuple[float, float]:
            rng = np.random.default_rng(n_cells)
            p = rng.dirichlet(np.ones(n_labels), n_cells)
            codes = (p.cumsum(1) < rng.uniform(size=(n_cells, 1))).sum(1)
            sharpened = p**3 / (p**3).sum(1, keepdims=True)
            return calibration(p, codes).ece, calibration(sharpened, codes).ece

        (few, _), (many, sharpened) = errors(300), errors(200_000)
        assert many < few / 5
        assert many < sharpened / 10
        assert many < np.sqrt(15 / 200_000), "the noise of the bins is said to be smaller"


class TestInput:
    def test_frame_and_array_agree(self):
        p, codes = simulated(0)
        truth = np.array(LABELS)[codes]
        by_code = numbers(calibration(p, codes))
        for given_truth in (truth, list(truth), pd.Series(truth), pd.Categorical(truth), truth.astype(object)):
            assert numbers(calibration(as_frame(p), given_truth)) == by_code

    def test_numbers_as_labels_are_read_as_text(self):
        p, codes = simulated(0)
        frame = pd.DataFrame(p, columns=[10, 11, 12, 13])
        assert numbers(calibration(frame, codes + 10)) == numbers(calibration(frame, (codes + 10).astype(str)))
        assert numbers(calibration(frame, codes + 10)) == numbers(calibration(p, codes))

    def test_single_precision(self):
        p, codes = simulated(0)
        assert numbers(calibration(p.astype(np.float32), codes)) == pytest.approx(numbers(calibration(p, codes)))

    def test_input_stays_as_it_is(self):
        p, codes = simulated(0)
        frame, truth = as_frame(p), pd.Series(np.array(LABELS)[codes])
        copies = frame.copy(), truth.copy()
        calibration(frame, truth)
        pd.testing.assert_frame_equal(frame, copies[0])
        pd.testing.assert_series_equal(truth, copies[1])

    def test_record_is_immutable(self):
        result = calibration(np.eye(2), [0, 1])
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.ece = 0.5
        assert "table" not in repr(result)


class TestErrors:
    @pytest.fixture
    def frame(self) -> pd.DataFrame:
        return as_frame(simulated(0, n_cells=12)[0])

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.nan, "2 of 12 cells hold NaN or infinite probabilities"),
            (np.inf, "2 of 12 cells hold NaN or infinite probabilities"),
            (-0.5, "2 of 12 cells hold negative probabilities"),
            (0.99, "2 of 12 cells have probabilities whose sum is not 1"),
        ],
    )
    def test_no_distribution(self, frame, value, message):
        frame.iloc[[1, 4], 2] = value
        with pytest.raises(DeltaviError, match=message + r".*\(for example 'cell1', 'cell4'\)"):
            calibration(frame, ["B"] * 12)
        with pytest.raises(DeltaviError, match=message + r".*\(for example 1, 4\)"):
            calibration(frame.to_numpy(), [0] * 12)

    @pytest.mark.parametrize(("off", "fine"), [(0.0009, True), (-0.0009, True), (0.0011, False), (-0.0011, False)])
    def test_tolerance_of_sums(self, off, fine):
        p = np.array([[0.5, 0.5 + off]])
        if fine:
            assert calibration(p, [1]).n_cells == 1
        else:
            with pytest.raises(DeltaviError, match="1 of 1 cells"):
                calibration(p, [1])

    def test_truth_that_is_no_label(self, frame):
        truth = ["B"] * 9 + ["mast", "mast", "ILC"]
        with pytest.raises(
            UnknownCategoryError,
            match=r"3 of 12 cells \(for example 'cell9', 'cell10', .*: 'mast' \(2\), 'ILC' \(1\)\. Known: 'B'",
        ):
            calibration(frame, truth)
        with pytest.raises(
            UnknownCategoryError, match=r"3 of 12 cells .*: '4' \(2\), '-1' \(1\)\. Known: 0, 1, 2, 3\."
        ):
            calibration(frame.to_numpy(), [4, -1, 4] + [0] * 9)

    def test_missing_truth(self, frame):
        with pytest.raises(DeltaviError, match=r"truth is missing for 2 of 12 cells \(for example 'cell0', 'cell3'\)"):
            calibration(frame, [None, "B", "B", np.nan] + ["B"] * 8)

    @pytest.mark.parametrize("truth", [["a"] * 12, np.full(12, 0.5), np.zeros(12)])
    def test_codes_that_are_none(self, frame, truth):
        with pytest.raises(DeltaviError, match=r"truth must hold whole numbers 0\.\.3, not"):
            calibration(frame.to_numpy(), truth)

    def test_lengths(self, frame):
        with pytest.raises(DeltaviError, match=r"one label per cell: 12 cells, but shape \(11,\)"):
            calibration(frame, ["B"] * 11)
        with pytest.raises(DeltaviError, match=r"shape \(12, 1\)"):
            calibration(frame, np.full((12, 1), "B"))

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
    def test_shape(self, shape):
        with pytest.raises(DeltaviError, match="n_cells, n_labels"):
            calibration(np.zeros(shape), [0] * shape[0])

    def test_other_cells(self, frame):
        truth = pd.Series(["B"] * 12, index=frame.index)
        assert calibration(frame, truth).n_cells == 12
        assert calibration(frame, truth.reset_index(drop=True)).n_cells == 12
        with pytest.raises(DeltaviError, match=r"1 cells only in probabilities .'cell0'., 1 cells only in truth .'z'"):
            calibration(frame, truth.rename({"cell0": "z"}))

    def test_repeated_labels(self, frame):
        with pytest.raises(DeltaviError, match="1 repeated labels: 'B'"):
            calibration(frame.set_axis(["B", "B", "NK", "T"], axis=1), ["B"] * 12)

    def test_text(self):
        with pytest.raises(DeltaviError, match="must hold numbers only"):
            calibration(pd.DataFrame({"B": ["high"], "T": ["low"]}), ["B"])

    @pytest.mark.parametrize("n_bins", [0, -1, 1.5, True])
    def test_bins(self, frame, n_bins):
        with pytest.raises(DeltaviError, match="n_bins must be a whole number"):
            calibration(frame, ["B"] * 12, n_bins=n_bins)
