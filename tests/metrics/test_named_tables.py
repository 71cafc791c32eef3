"""Every metric reads tables by the names they carry: their order changes nothing, and other names are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi import metrics
from deltavi.errors import DeltaviError, GeneMatchError, InputDataError
from deltavi.perturbation import compare, estimate_shift

N_GENES = 6
GENES = [f"g{i}" for i in range(N_GENES)]


def frame(seed: int, n_cells: int = 9) -> pd.DataFrame:
    values = np.random.default_rng(seed).gamma(1.0, 1.0, (n_cells, N_GENES))
    return pd.DataFrame(values, index=[f"c{seed}_{i}" for i in range(n_cells)], columns=GENES)


PREDICTED, REAL, CONTROL, OTHER = (frame(seed) for seed in range(4))
AXES = pd.DataFrame(np.linalg.qr(frame(5, N_GENES))[0][:, :3], index=GENES)
LABELS = pd.Series(list("aabbabbaa"), index=PREDICTED.index)
GUESSES = pd.Series(list("aabbbbaaa"), index=PREDICTED.index)
PROBABILITIES = pd.DataFrame({"a": np.linspace(0.1, 0.9, 9), "b": np.linspace(0.9, 0.1, 9)}, index=PREDICTED.index)
MASK = pd.Series([True, True, False, True, False, True], index=GENES)

# names of arguments that are tables, and what each function makes of them
Tables = dict[str, Any]
OF_TABLES: dict[str, Callable[[Tables], Any]] = {
    "pearson_delta": lambda t: metrics.pearson_delta(t["p"], t["r"], control=t["c"]),
    "pearson_delta of a mask": lambda t: metrics.pearson_delta(t["p"], t["r"], control=t["c"], genes=t["mask"]),
    "mse_delta of names": lambda t: metrics.mse_delta(t["p"], t["r"], control=t["c"], genes=["g4", "g1"]),
    "direction_accuracy": lambda t: metrics.direction_accuracy(t["p"], t["r"], control=t["c"], genes=None),
    "r2_of_means": lambda t: metrics.r2_of_means(t["p"], t["r"]),
    "mse_of_means": lambda t: metrics.mse_of_means(t["p"], t["r"], genes="g3"),
    "r2_of_variances": lambda t: metrics.r2_of_variances(t["p"], t["r"], genes=["g0", "g2", "g5"]),
    "variance_ratio": lambda t: metrics.variance_ratio(t["p"], t["r"]),
    "zero_fraction": lambda t: metrics.zero_fraction(t["p"]),
    "e_distance": lambda t: metrics.e_distance(t["p"], t["r"], components=t["axes"]),
    "energy_distance": lambda t: metrics.energy_distance(t["p"], t["r"], components=t["axes"]),
    "explained": lambda t: metrics.explained(t["p"], t["r"], control=t["c"], reference=t["o"]),
    "squared_error": lambda t: metrics.squared_error(t["p"], t["r"], control=t["c"], reference=t["o"]).squared_error,
    "signal_z": lambda t: metrics.signal_z(t["r"], t["c"]),
    "mmd": lambda t: metrics.mmd(t["p"], t["r"], components=t["axes"]),
    "deg_overlap": lambda t: metrics.deg_overlap(t["p"], t["r"], control=t["c"], n=3),
    "differential_overlap": lambda t: metrics.differential_overlap(t["p"], t["r"], control=t["c"]).f1,
    "perturbation_discrimination": lambda t: metrics.perturbation_discrimination(
        t["p"], {"r": t["r"], "o": t["o"]}, perturbation="r", control=t["c"]
    ),
    "score_prediction": lambda t: list(
        metrics.score_prediction(t["p"], t["r"], control=t["c"], components=t["axes"], n_top=3).as_dict().values()
    ),
    "compare": lambda t: compare(
        {"p": t["p"], "o": t["o"]}, t["r"], t["c"], components=t["axes"], n_top=3, split_half=False
    ),
    "principal_axes": lambda t: abs(metrics.principal_axes(t["p"], n_components=2)).loc[GENES],
}
OF_CELLS: dict[str, Callable[[Tables], Any]] = {
    "calibration": lambda t: metrics.calibration(t["probabilities"], t["labels"]).brier,
    "clustering_scores": lambda t: list(
        metrics.clustering_scores(t["labels"], t["guesses"], fit_on=t["labels"] == "a").as_dict().values()
    ),
}
# positions are the answer, of which a table in another order has others
OF_POSITIONS: dict[str, Callable[[Tables], Any]] = {
    "top_differential_genes": lambda t: metrics.top_differential_genes(t["p"], t["r"], n=4),
    "differential_genes": lambda t: metrics.differential_genes(t["p"], t["r"]),
}
WITHOUT_TABLES = {"Calibration", "ClusteringScores", "DifferentialOverlap", "PredictionScore", "SquaredError"}
TABLES = {"p": PREDICTED, "r": REAL, "c": CONTROL, "o": OTHER, "axes": AXES, "mask": MASK}
CELLS = {"labels": LABELS, "guesses": GUESSES, "probabilities": PROBABILITIES}


def test_every_metric_is_walked() -> None:
    walked = {name.split(" ")[0] for name in (*OF_TABLES, *OF_CELLS, *OF_POSITIONS)}
    assert set(metrics.__all__) - WITHOUT_TABLES <= walked


def in_order(table: Any, order: list[int]) -> Any:
    """Table with its genes, which are the rows of axes and masks, in another order."""
    return table.iloc[order] if len(table) == N_GENES else table.iloc[:, order]


@pytest.mark.parametrize("form", [lambda table: table, AnnData], ids=["frame", "AnnData"])
@pytest.mark.parametrize("name", OF_TABLES)
@settings(max_examples=4)
@given(orders=st.tuples(*[st.permutations(range(N_GENES))] * len(TABLES)))
def test_the_order_of_genes_changes_nothing(name: str, form: Callable[[Any], Any], orders: tuple[list[int]]) -> None:
    shuffled = {key: in_order(table, order) for (key, table), order in zip(TABLES.items(), orders, strict=True)}
    formed = {key: form(table) if key in "prco" else table for key, table in shuffled.items()}
    np.testing.assert_allclose(OF_TABLES[name](formed), OF_TABLES[name](TABLES), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in OF_TABLES
        if " of " not in name and name not in ("principal_axes", "mse_of_means", "r2_of_variances")
    ],
)
def test_arrays_are_in_order(name: str) -> None:
    arrays = {key: table.to_numpy() for key, table in TABLES.items()}
    np.testing.assert_allclose(OF_TABLES[name](arrays), OF_TABLES[name](TABLES), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", OF_CELLS)
@settings(max_examples=10)
@given(orders=st.tuples(*[st.permutations(range(9))] * len(CELLS)))
def test_the_order_of_cells_changes_nothing(name: str, orders: tuple[list[int]]) -> None:
    shuffled = {key: table.iloc[order] for (key, table), order in zip(CELLS.items(), orders, strict=True)}
    np.testing.assert_allclose(OF_CELLS[name](shuffled), OF_CELLS[name](CELLS))
    np.testing.assert_allclose(
        OF_CELLS[name]({**CELLS, "labels": LABELS.reset_index(drop=True)}), OF_CELLS[name](CELLS)
    )


@pytest.mark.parametrize("name", OF_CELLS)
def test_values_of_other_cells_are_refused(name: str) -> None:
    with pytest.raises(InputDataError, match=r"1 cells only in .*'c0_0'"):
        OF_CELLS[name]({**CELLS, "labels": LABELS.rename({"c0_0": "z"})})
    masked = np.ma.masked_array(np.array(LABELS, dtype=object), np.arange(9) < 2)
    with pytest.raises(InputDataError, match="truth has 2 masked"):
        OF_CELLS["calibration"]({**CELLS, "labels": masked})


@pytest.mark.parametrize("name", OF_POSITIONS)
def test_positions_are_refused_where_orders_differ(name: str) -> None:
    reverse = {**TABLES, "r": REAL.iloc[:, ::-1]}
    with pytest.raises(GeneMatchError, match="by position, but the tables have their genes in different orders"):
        OF_POSITIONS[name](reverse)
    arrays = {key: table.to_numpy() for key, table in TABLES.items()}
    np.testing.assert_array_equal(OF_POSITIONS[name](TABLES), OF_POSITIONS[name](arrays))


MISMATCHES: dict[str, tuple[Callable[[], Any], type[DeltaviError], str]] = {
    "gene missing": (
        lambda: metrics.r2_of_means(PREDICTED, REAL.iloc[:, 1:]),
        GeneMatchError,
        "real lacks 1 of 6 genes .'g0'",
    ),
    "gene more": (
        lambda: metrics.r2_of_means(PREDICTED, REAL.assign(g=1.0)),
        GeneMatchError,
        "real has 1 genes that predicted",
    ),
    "other case": (lambda: metrics.mmd(PREDICTED, REAL.rename(columns=str.upper)), GeneMatchError, "'G0' is there"),
    "gene twice": (
        lambda: metrics.e_distance(PREDICTED[["g0", *GENES[1:5], "g0"]], REAL),
        GeneMatchError,
        "more than once .'g0'",
    ),
    "array beside two orders": (
        lambda: metrics.mse_delta(PREDICTED, REAL[GENES[::-1]], control=CONTROL.to_numpy()),
        GeneMatchError,
        "control holds genes by position",
    ),
    "axes without names": (
        lambda: metrics.e_distance(PREDICTED, REAL[GENES[::-1]], components=AXES.to_numpy()),
        GeneMatchError,
        "components",
    ),
    "axes of other genes": (
        lambda: metrics.mmd(PREDICTED, REAL, components=AXES.rename({"g0": "x"})),
        GeneMatchError,
        "components lacks",
    ),
    "axes that are not finite": (
        lambda: metrics.mmd(PREDICTED, REAL, components=AXES * np.nan),
        InputDataError,
        "components holds NaN",
    ),
    "positions in two orders": (
        lambda: metrics.r2_of_means(PREDICTED, REAL[GENES[::-1]], genes=[0, 1]),
        GeneMatchError,
        "by position",
    ),
    "unknown gene": (
        lambda: metrics.r2_of_means(PREDICTED, REAL, genes=["g0", "G_3"]),
        GeneMatchError,
        "Did you mean 'g3'",
    ),
    "mask of others": (
        lambda: metrics.r2_of_means(PREDICTED, REAL, genes=MASK.rename({"g0": "x"})),
        GeneMatchError,
        "other genes",
    ),
    "counts beside logs": (
        lambda: metrics.r2_of_means(PREDICTED, np.random.default_rng(0).poisson(9, REAL.shape)),
        InputDataError,
        "raw counts",
    ),
    "masked": (lambda: metrics.r2_of_means(np.ma.masked_array(REAL, REAL > 2), REAL), InputDataError, "masked entries"),
    "text": (lambda: metrics.zero_fraction(REAL.assign(g0="x")), InputDataError, "1 of its columns do not .'g0'"),
    "predictions in a list": (lambda: compare([PREDICTED], REAL, CONTROL), DeltaviError, "must map names"),
    "a seed that is none": (lambda: metrics.mmd(PREDICTED, REAL, seed=-1), DeltaviError, "seed must be a whole number"),
    "a share that is none": (
        lambda: metrics.differential_genes(CONTROL, REAL, alpha="5 %"),
        DeltaviError,
        "alpha must be",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_what_does_not_match_is_refused(case: str) -> None:
    ask, error, message = MISMATCHES[case]
    with pytest.raises(error, match=message):
        ask()


def test_logs_beside_logs_of_whole_numbers_are_let_through() -> None:
    assert np.isfinite(metrics.mse_of_means(np.rint(PREDICTED), REAL))


POINTS = pd.concat([frame(7), frame(8)])
IS_CONTROL = pd.Series([True] * 9 + [False] * 9, index=POINTS.index)
OF_POINTS = pd.Series(list("aabbababa") * 2, index=POINTS.index)


@settings(max_examples=15)
@given(
    cells=st.tuples(*[st.permutations(range(18))] * 4),
    dims=st.tuples(*[st.permutations(range(N_GENES))] * 2),
    estimator=st.sampled_from(["paired", "similarity", "nearest", "gp", "global", "scgen"]),
)
def test_shifts_follow_names(cells: tuple[list[int], ...], dims: tuple[list[int], ...], estimator: str) -> None:
    query = frame(9)
    told = {"is_control": IS_CONTROL, "is_perturbed": ~IS_CONTROL, "labels": OF_POINTS}
    expected = estimate_shift(POINTS, query=query, estimator=estimator, **told)
    shuffled = {name: values.iloc[order] for (name, values), order in zip(told.items(), cells[1:], strict=True)}
    points = POINTS.iloc[cells[0], dims[0]]
    found = estimate_shift(points, query=query.iloc[:, dims[1]], estimator=estimator, **shuffled)
    vector = pd.Series(found.vector, index=points.columns)[GENES]
    np.testing.assert_allclose(vector, expected.vector, rtol=1e-6, atol=1e-9)
    assert found.n_control == expected.n_control


def test_a_shift_with_names_is_matched() -> None:
    told = {"is_control": IS_CONTROL, "is_perturbed": ~IS_CONTROL}
    vector = pd.Series(np.arange(6.0), index=GENES)
    for points, index in ((POINTS, GENES), (POINTS.to_numpy(), [str(i) for i in range(6)])):
        given = vector.set_axis(index)
        np.testing.assert_array_equal(estimate_shift(points, estimator=given[::-1], **told).vector, vector)
    for wrong in (vector.rename({"g0": "x"}), vector):
        with pytest.raises(GeneMatchError, match=r"The shift lacks \d of 6 dimensions"):
            points = POINTS if wrong is not vector else POINTS.to_numpy()
            estimate_shift(points, estimator=wrong, **told)
