"""Interactions of combinations: a dense process, simulated cells with known interactions, and bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import deltavi
from deltavi.errors import DeltaviError, InputDataError, UnknownCategoryError
from deltavi.perturbation import ResponseModel, ResponseTable, interactions
from deltavi.perturbation.crossed_process import Process
from tests.perturbation.crossed_scenes import noise_covariance, scene, signal_covariance, structured


def of_one_ratio(table: ResponseTable, ratio: float = 1.0) -> ResponseModel:
    """A fitted model whose genes all have one signal-to-noise ratio, and no variance between groups."""
    model = ResponseModel.fit(table, kernel="identity")
    process = Process.of(table, model.kernel, model.weights, ratios=np.array([ratio]), shares=np.array([1.0]))
    calibration = replace(model.fitted.calibration, nugget=np.zeros(table.n_genes), length=0.0)
    return ResponseModel(replace(model.fitted, process=process, calibration=calibration, evidence=1e3))


def twice(table: ResponseTable) -> ResponseTable:
    """The table with its last combination in one more context."""
    rows = [*range(table.n_pairs), table.n_pairs - 1]
    context_of = np.array([*table.context_of, 0])
    return replace(table.of_pairs(np.array(rows)), context_of=context_of)


def test_differences_are_those_of_a_dense_process() -> None:
    table = twice(structured(3))
    model = of_one_ratio(table)
    found = interactions(model)
    covariance = signal_covariance(table, model.kernel, model.weights) + noise_covariance(table)
    values, scale = table.standardised(), np.sqrt(table.variance)
    combined = np.flatnonzero(table.parts.sum(1) > 1)
    assert len(combined) == 3
    assert len({table.names[pair] for pair in combined}) == 2
    first = {table.names[pair]: pair for pair in reversed(combined)}
    for pair in combined:
        # nothing of the same combination tells of its sum, and each other combination does so once
        others = [i for i in range(table.n_pairs) if i not in combined or i == first[table.names[i]]]
        others = [i for i in others if table.names[i] != table.names[pair]]
        measured, noise = covariance[np.ix_(others, others)], noise_covariance(table)[others, pair]
        # weights of the true change, to which the noise of shared control cells does not belong
        weights = np.linalg.solve(measured, covariance[others, pair] - noise)
        spread = covariance[pair, pair] - 2 * weights @ covariance[others, pair] + weights @ measured @ weights
        context, name = table.pairs[pair]
        rows = found[(found["context"] == context) & (found["perturbation"] == name)]
        np.testing.assert_allclose(rows["predicted"], (weights @ values[others]) * scale, atol=1e-8)
        np.testing.assert_allclose(rows["measured"] - rows["predicted"], rows["interaction"], atol=1e-12)
        np.testing.assert_allclose(rows["standard_error"] ** 2, spread * table.variance)


@pytest.fixture(scope="module")
def simulated() -> tuple[ResponseModel, dict[tuple[str, str], np.ndarray]]:
    """A fitted screen, and the true interaction of each pair of perturbations."""
    cells = deltavi.datasets.simulate_screen(
        n_genes=300, n_contexts=3, n_perturbations=12, n_pairs=8, n_batches=1, n_cells_per_group=120,
        library_median=3000, pair_interaction=1.2, interacting_fraction=0.5, seed=4,
    )  # fmt: skip
    table = deltavi.tl.responses(cells, condition_key="condition", control="control", context_keys="context")
    truth = cells.uns["truth"]
    contexts, conditions = list(truth["contexts"]), list(truth["conditions"])
    true = {}
    for context, name in table.pairs:
        if "+" in name:
            own = truth["change"][contexts.index(context)]
            both, *parts = (own[conditions.index(one)] for one in (name, *name.split("+")))
            true[context, name] = both - sum(parts)
    return ResponseModel.fit(table), true


def test_true_interactions_are_found_and_noise_is_not(
    simulated: tuple[ResponseModel, dict[tuple[str, str], np.ndarray]],
) -> None:
    model, true = simulated
    found = interactions(model).set_index(["context", "perturbation"])
    sizes = {pair: float((change**2).sum()) for pair, change in true.items()}
    inside, outside, quiet = [], [], []
    for pair, change in true.items():
        rows, interacts = found.loc[pair], np.abs(change) > 0.5
        beyond = ((rows["lower"] > 0) | (rows["upper"] < 0)).to_numpy()
        inside.append(((rows["lower"] <= change) & (change <= rows["upper"])).mean())
        outside.extend(beyond[interacts])
        quiet.extend(beyond[np.abs(change) < 0.05])
    assert np.mean(inside) > 0.85
    assert np.mean(quiet) < 0.1
    assert len(outside) > 20
    assert np.mean(outside) > 0.5
    strongest = max(sizes, key=sizes.__getitem__)
    assert np.corrcoef(found.loc[strongest, "interaction"], true[strongest])[0, 1] > 0.6


def test_combinations_and_contexts_are_chosen(
    simulated: tuple[ResponseModel, dict[tuple[str, str], np.ndarray]],
) -> None:
    model, _ = simulated
    whole = interactions(model)
    name = str(whole["perturbation"].iloc[0])
    swapped = "+".join(reversed(name.split("+")))
    found = interactions(model, swapped, contexts="context_2")
    assert set(found["perturbation"]) == {name}
    assert set(found["context"]) == {"context_2"}
    same = whole[(whole["perturbation"] == name) & (whole["context"] == "context_2")].reset_index(drop=True)
    np.testing.assert_allclose(found["interaction"], same["interaction"], atol=1e-9)
    narrow = interactions(model, name, contexts="context_2", level=0.5)
    varies = found["standard_error"] > 0
    assert varies.mean() > 0.9
    assert ((narrow["upper"] - narrow["lower"]) < (found["upper"] - found["lower"]))[varies].all()
    assert narrow["two_sided"].between(0, 1).all()


def test_without_evidence_the_sum_is_no_change() -> None:
    table = structured(1)
    fitted = ResponseModel.fit(table)
    model = ResponseModel(replace(fitted.fitted, evidence=-1.0))
    assert not model.has_evidence
    assert (interactions(model)["predicted"] == 0).all()


def test_bad_input() -> None:
    model = ResponseModel.fit(structured(0))
    with pytest.raises(UnknownCategoryError, match=r"'drug 0\+drug 4' is not"):
        interactions(model, "drug 0+drug 4")
    with pytest.raises(UnknownCategoryError, match="'drug 0' is not"):
        interactions(model, "drug 0")
    with pytest.raises(UnknownCategoryError, match="'type 9'"):
        interactions(model, contexts="type 9")
    with pytest.raises(InputDataError, match="measured in these contexts"):
        interactions(model, contexts="type 1")
    with pytest.raises(DeltaviError, match="level must be below 1"):
        interactions(model, level=1)
    with pytest.raises(DeltaviError, match="must be a ResponseModel"):
        interactions(model.table)  # type: ignore[arg-type]
    singles = ResponseModel.fit(scene(0, 4, 3, complete=True))
    with pytest.raises(InputDataError, match="no combination of perturbations"):
        interactions(singles)
