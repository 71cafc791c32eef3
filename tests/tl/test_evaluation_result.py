"""Questions one asks of a finished evaluation, on tables small enough to answer by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.perturbation import SPLIT_HALF
from deltavi.tl import PerturbationEvaluation
from deltavi.tl._evaluation import COLUMNS, SCORES

A, B = "pearson_delta", "e_distance"
BOTH = (A, B)
KIND = {"mine": "model", "theirs": "model", "no change": "baseline", "mean shift": "baseline", SPLIT_HALF: "split_half"}
# (hold-out, seed) -> correlation and distance of mine, theirs, no change, mean shift, ceiling; the share explained is
# the correlation less 0.2, of a response of size 10 (B) or 2 (NK)
SIZES, SIGNALS = {"B": 10.0, "NK": 2.0}, {"B": 20.0, "NK": 4.0}
VALUES = {
    ("B", 0): [(0.9, 10), (0.5, 20), (0.0, 50), (0.74, 15), (0.95, 1)],
    ("B", 1): [(0.7, 12), (0.5, 20), (0.0, 50), (0.74, 15), (0.95, 1)],
    ("NK", 0): [(0.4, 30), (0.5, 20), (0.1, 25), (0.6, 40), (0.95, 1)],
    ("NK", 1): [(0.6, 20), (0.5, 20), (0.1, 25), (0.6, 40), (0.95, 1)],
}


@pytest.fixture
def known() -> PerturbationEvaluation:
    rows = [
        {
            **dict.fromkeys(COLUMNS, 0.5), "hold_out": name, "label": name, "perturbation": "stim", "seed": seed,
            "method": method, "kind": KIND[method], "n_control": 20, "n_reference": 20, "n_real": 30, "seconds": 1.5,
            A: a, B: float(b), "signal_z": SIGNALS[name], "explained": a - 0.2, "squared_size": SIZES[name],
            "squared_error": (1.2 - a) * SIZES[name],
        }
        for (name, seed), pairs in VALUES.items()
        for method, (a, b) in zip(KIND, pairs, strict=True)
    ]  # fmt: skip
    return PerturbationEvaluation(pd.DataFrame(rows)[COLUMNS], {"control": "ctrl"}, warnings=("said",))


def test_mean_and_spread_best_first(known: PerturbationEvaluation) -> None:
    found = known.summary(A)
    assert list(found.index) == ["mean shift", "mine", "theirs", "no change", SPLIT_HALF]
    assert found.loc["mine", "mean"] == pytest.approx(0.65)
    assert found.loc["mine", "sd"] == pytest.approx(np.std([0.9, 0.7, 0.4, 0.6], ddof=1))
    assert list(found["kind"]) == ["baseline", "model", "model", "baseline", "split_half"]
    assert (found["n"] == 4).all()
    assert list(known.summary(B).index) == ["mine", "theirs", "mean shift", "no change", SPLIT_HALF]
    assert list(known.summary("zero_fraction").index) == list(KIND)


def test_the_summary_of_all_scores(known: PerturbationEvaluation) -> None:
    found = known.summary()
    assert list(found.columns) == [(name, part) for name in SCORES for part in ("mean", "sd")]
    assert list(found.index) == list(known.summary(SCORES[0]).index)
    assert found.loc["mine", (B, "mean")] == 18
    assert found.loc["mine", ("explained", "mean")] == known.summary("explained").loc["mine", "mean"]


def test_the_long_form(known: PerturbationEvaluation) -> None:
    found = known.long()
    assert len(found) == len(known.table) * len(SCORES)
    wide = found.pivot_table(index=["hold_out", "seed", "method"], columns="metric", values="value")
    assert wide.loc[("NK", 1, "mine"), B] == 20
    assert not set(SCORES) & set(found.columns)


def test_wins_against_the_best_baseline_of_each_hold_out(known: PerturbationEvaluation) -> None:
    found = known.wins("mine", A).set_index("hold_out")
    assert found.loc["B", ["score", "best_baseline", "baseline_score", "wins"]].tolist() == [
        0.8,
        "mean shift",
        0.74,
        True,
    ]
    assert found.loc["NK", "margin"] == pytest.approx(-0.1)
    assert not found.loc["NK", "wins"]
    distances = known.wins("mine", B).set_index("hold_out")
    # lower is better, and the best baseline of this hold-out is another
    assert distances.loc["NK", ["score", "best_baseline", "wins"]].tolist() == [25, "no change", False]
    assert distances.loc["NK", "margin"] == 0
    assert distances["wins"].sum() == 1


def test_a_baseline_is_judged_by_the_others(known: PerturbationEvaluation) -> None:
    found = known.wins("mean shift", A)
    assert set(found["best_baseline"]) == {"no change"}
    assert found["wins"].all()


def test_a_missing_score_wins_nothing(known: PerturbationEvaluation) -> None:
    table = known.table.copy()
    table.loc[table["kind"] == "baseline", A] = np.nan
    found = PerturbationEvaluation(table).wins("mine", A)
    assert not found["wins"].any()
    table.loc[(table["method"] == "mine") & (table["hold_out"] == "B"), A] = np.nan
    assert list(PerturbationEvaluation(table).wins("mine", A)["hold_out"]) == ["NK"]


def test_the_conclusion_says_where_it_did_not(known: PerturbationEvaluation) -> None:
    text = known.conclusion("mine", metric=BOTH)
    average, changes, distance = (
        "On average mine did not beat the best baseline on Pearson delta (0.65 against 0.67 of mean shift), "
        "but beat it on E-distance (18 against 27.5 of mean shift).",
        "On Pearson delta it beat the best baseline in 1 of 2 comparisons; "
        "it did not for NK (0.5 against 0.6 of mean shift).",
        "On E-distance it beat the best baseline in 1 of 2 comparisons; "
        "it did not for NK (25 against 25 of no change).",
    )
    assert text == f"{average} {changes} {distance}"
    only = known.conclusion("mine", metric=B)
    assert "correlation" not in only


def test_a_conclusion_names_some_of_many_losses(known: PerturbationEvaluation) -> None:
    one = known.table[known.table["hold_out"] == "NK"]
    many = pd.concat([one.assign(hold_out=f"type {i:02}", label=f"type {i:02}") for i in range(12)], ignore_index=True)
    text = PerturbationEvaluation(many).conclusion("mine", A)
    assert "in 0 of 12 comparisons" in text
    assert [f"type {i:02}" in text for i in range(12)] == [True] * 7 + [False] * 5
    assert "(0.5 against 0.6 of mean shift) and 5 more." in text


def test_a_conclusion_without_losses(known: PerturbationEvaluation) -> None:
    best = known.table[known.table["hold_out"] == "B"]
    text = PerturbationEvaluation(best).conclusion()
    assert "in 1 of 1 comparisons." in text
    assert "did not" not in text
    assert "worse" not in text
    assert "ranked" not in text


def test_a_donor_and_a_second_target_are_named(known: PerturbationEvaluation) -> None:
    table = known.table.assign(hold_out="donor 1")
    text = PerturbationEvaluation(table).conclusion("mine", metric=A)
    assert "did not for NK of donor 1 (" in text
    second = pd.concat([known.table, known.table.assign(perturbation="other")])
    text = PerturbationEvaluation(second).conclusion("mine", metric=A)
    assert "NK under stim (" in text
    assert "NK under other (" in text


def test_the_first_model_is_meant_where_none_is_named(known: PerturbationEvaluation) -> None:
    assert known.methods == ["mine", "theirs"]
    assert known.conclusion() == known.conclusion("mine")
    pd.testing.assert_frame_equal(known.wins(), known.wins("mine", "explained"))


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda e: e.summary("r3"), UnknownCategoryError, "metric 'r3'"),
        (lambda e: e.wins("min"), UnknownCategoryError, "method 'min'.*'mine'"),
        (lambda e: e.wins("mine", "zero_fraction"), DeltaviError, "no better or worse"),
        (lambda e: e.conclusion("mine", metric=["zero_fraction"]), DeltaviError, "no better or worse"),
        (lambda e: e.conclusion("mine", metric="x"), UnknownCategoryError, "metric 'x'"),
        (lambda e: PerturbationEvaluation.load("nowhere"), DeltaviError, "no finished evaluation"),
    ],
)
def test_questions_without_an_answer(known: PerturbationEvaluation, ask: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ask(known)


def test_saved_and_loaded(known: PerturbationEvaluation, tmp_path: Any) -> None:
    table = known.table.copy()
    table.loc[0, A] = 1 / 3
    table.loc[1, "seconds"] = np.nan
    table.loc[2, ["hold_out", "label"]] = ["NA", "007"]
    skipped = pd.DataFrame({"hold_out": ["x"], "label": [""], "perturbation": ["1"], "reason": ["4 cells, too few"]})
    evaluation = PerturbationEvaluation(table, {"control": "ctrl", "n": 3}, skipped, ("said", "so"))
    files = evaluation.save(tmp_path / "new")
    assert all(path.is_file() for path in files)
    loaded = PerturbationEvaluation.load(tmp_path / "new")
    pd.testing.assert_frame_equal(loaded.table, table, check_exact=True)
    pd.testing.assert_frame_equal(loaded.skipped, skipped)
    assert loaded.settings == evaluation.settings
    assert loaded.warnings == evaluation.warnings
    assert loaded.conclusion() == evaluation.conclusion()
    assert loaded.predictions.empty


def test_the_plot_is_the_scoreboard(known: PerturbationEvaluation) -> None:
    axes = known.plot(metrics=[A, B], highlight="mine", show=False)
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == ["mean shift", "mine", "theirs", "no change"]
    plt.close("all")
    assert list(known.board().columns) == list(SCORES)


def test_it_cannot_be_changed(known: PerturbationEvaluation) -> None:
    with pytest.raises(AttributeError):
        known.table = known.table  # type: ignore[misc]


def test_the_order_of_rows_decides_nothing(known: PerturbationEvaluation) -> None:
    shuffled = known.table.sample(frac=1, random_state=0).sort_values(["method", "seed"], kind="stable")
    other = PerturbationEvaluation(shuffled, known.settings)
    expected = known.wins(metric=A).set_index("hold_out")
    found = other.wins(method=known.methods[0], metric=A).set_index("hold_out").loc[expected.index]
    pd.testing.assert_frame_equal(found.drop(columns="best_baseline"), expected.drop(columns="best_baseline"))


def test_files_under_former_names_are_read_alike(known: PerturbationEvaluation, tmp_path: Path) -> None:
    known.save(tmp_path)
    for file in ("table.csv", "skipped.csv", "predictions.csv"):
        table = pd.read_csv(tmp_path / file, dtype=str, keep_default_na=False)
        scores = {"pearson_delta": "correlation_of_changes", "mse_delta": "mse_of_changes", "uncertainty": "doubt"}
        old = table.rename(columns={"perturbation": "target", **scores})
        old.replace({SPLIT_HALF: "two halves of the real cells", "split_half": "ceiling"}).to_csv(
            tmp_path / file, index=False
        )
    loaded = PerturbationEvaluation.load(tmp_path)
    assert loaded.conclusion() == known.conclusion()
    assert list(loaded.table.columns) == list(known.table.columns)
    assert loaded.summary().index.tolist() == known.summary().index.tolist()


def explained_by_hand(known: PerturbationEvaluation, method: str, **where: Any) -> float:
    rows = known.table[known.table["method"] == method]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return 1 - rows["squared_error"].sum() / rows["squared_size"].sum()


def test_the_share_explained_is_that_of_sums(known: PerturbationEvaluation) -> None:
    """A response of size ten counts five times as much as one of size two; the spread is one over seeds."""
    found = known.summary("explained")
    for method in KIND:
        assert found.loc[method, "mean"] == pytest.approx(explained_by_hand(known, method))
        seeds = [explained_by_hand(known, method, seed=seed) for seed in (0, 1)]
        assert found.loc[method, "sd"] == pytest.approx(np.std(seeds, ddof=1))
    assert found.loc["mine", "mean"] == pytest.approx((10 * (0.7 + 0.5) + 2 * (0.2 + 0.4)) / 24)
    assert list(found.index) == ["mine", "mean shift", "theirs", "no change", SPLIT_HALF]
    assert (found["n"] == 4).all()
    one = PerturbationEvaluation(known.table[known.table["seed"] == 0]).summary("explained")
    assert one["sd"].isna().all()
    wins = known.wins("mine").set_index("hold_out")
    assert wins.loc["NK", ["score", "baseline_score"]].tolist() == pytest.approx([0.3, 0.4])


def test_a_conclusion_leaves_out_what_is_too_small(known: PerturbationEvaluation) -> None:
    weak = known.table.assign(signal_z=np.where(known.table["hold_out"] == "NK", 2.9, 20.0))
    evaluation = PerturbationEvaluation(weak)
    assert evaluation.signals()["ranked"].tolist() == [True, False]
    assert set(evaluation.ranked().table["hold_out"]) == {"B"}
    assert evaluation.conclusion("mine") == (
        "On average mine beat the best baseline on share explained (0.6 against 0.54 of mean shift) and on E-distance "
        "(11 against 15 of mean shift). On share explained it beat the best baseline in 1 of 1 comparisons. On "
        "E-distance it beat the best baseline in 1 of 1 comparisons. 1 of 2 responses are not ranked, as they are too "
        "small, with a signal z below 3: NK (2.90)."
    )
    nothing = PerturbationEvaluation(known.table.assign(signal_z=1.0))
    assert nothing.conclusion() == (
        "No method is ranked: all 2 responses are too small, with a signal z below 3: B (1.00), NK (1.00)."
    )
    # the mean over seeds decides, as each has other halves
    mixed = known.table.assign(signal_z=np.where(known.table["seed"] == 0, 2.0, 5.0))
    assert PerturbationEvaluation(mixed).signals()["ranked"].all()


def test_a_conclusion_says_where_a_method_was_worse_than_no_change(known: PerturbationEvaluation) -> None:
    table = known.table.copy()
    harmed = (table["method"] == "mine") & (table["hold_out"] == "NK")
    table.loc[harmed, "squared_error"] = [2.5, 3.0]
    text = PerturbationEvaluation(table).conclusion("mine")
    assert text.endswith("It was worse than no change for NK (-0.38).")
    assert "worse" not in PerturbationEvaluation(table).conclusion("theirs")
    # where nothing can be said, neither can this
    table["signal_z"] = SIGNALS["B"] * (table["hold_out"] == "B")
    assert "worse" not in PerturbationEvaluation(table).conclusion("mine")


def test_tables_of_before_the_share_explained_are_read_and_judged(
    known: PerturbationEvaluation, tmp_path: Path
) -> None:
    known.save(tmp_path)
    old = pd.read_csv(tmp_path / "table.csv", dtype=str, keep_default_na=False)
    new = ["n_reference", "signal_z", "explained", "squared_error", "squared_size", "noise", "energy_distance"]
    old.drop(columns=new).to_csv(tmp_path / "table.csv", index=False)
    loaded = PerturbationEvaluation.load(tmp_path)
    assert loaded.conclusion() == known.conclusion(metric=BOTH).removesuffix(" It was worse than no change for NK.")
    assert loaded.signals()["ranked"].all()
    assert loaded.wins()["score"].tolist() == known.wins(metric=A)["score"].tolist()
    assert loaded.summary().index.tolist() == known.summary().index.tolist()
