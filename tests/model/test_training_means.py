"""Means that a model keeps of its training cells, with their standard errors: files old and new, joining, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltavi.io import read_model, write_model
from deltavi.model._training_means import TrainingMeans
from deltavi.perturbation import Shift
from deltavi.perturbation.estimators import GroupMeans


def training_means(rows: slice = slice(None), *, counts: bool = True) -> TrainingMeans:
    rng = np.random.default_rng(0)
    positions, values = rng.normal(size=(60, 4)), rng.poisson(2.0, (60, 7)).astype(float)
    conditions, labels = (rng.choice(names, 60).astype(object) for names in (["control", "x"], ["a", "b", "c", "d"]))
    labels[3] = "of one cell"
    return TrainingMeans.from_cells(
        positions[rows],
        values[rows],
        totals=values[rows].sum(1) if counts else None,
        conditions=conditions[rows],
        labels=labels[rows],
    )


def assert_same_groups(found: dict[str, GroupMeans], expected: dict[str, GroupMeans], **kwargs: float) -> None:
    assert found.keys() == expected.keys()
    for condition, group in expected.items():
        other = found[condition]
        assert (tuple(other.labels), tuple(other.n_cells)) == (group.labels, group.n_cells)
        np.testing.assert_allclose(other.means, group.means, **kwargs)
        assert (other.errors is None) == (group.errors is None)
        if group.errors is not None:
            np.testing.assert_allclose(other.errors, group.errors, **kwargs)


FIELDS = ("positions", "expression", "overall_positions", "overall_expression", "log_expression")


def test_logs_are_kept_beside_expression_with_their_errors() -> None:
    means, rng = training_means(), np.random.default_rng(0)
    rng.normal(size=(60, 4))
    counts = rng.poisson(2.0, (60, 7)).astype(float)
    conditions, labels = (rng.choice(names, 60).astype(object) for names in (["control", "x"], ["a", "b", "c", "d"]))
    labels[3] = "of one cell"
    logs = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    group = means.log_expression["control"]
    for row, label in enumerate(group.labels):
        cells = logs[(labels == label) & (conditions == "control")]
        np.testing.assert_allclose(group.means[row], cells.mean(0))
        if len(cells) > 1:
            np.testing.assert_allclose(group.errors[row], cells.var(0, ddof=1) / len(cells), atol=1e-10)
    # what is on the logarithmic scale already is kept as it is
    given = training_means(counts=False)
    assert_same_groups(given.log_expression, given.expression)


@pytest.mark.parametrize("without", [(), ("errors",), ("log_expression",), ("errors", "log_expression")])
def test_means_of_older_files_are_read(tmp_path: Path, without: tuple[str, ...]) -> None:
    means = training_means()
    saved = {name: value for name, value in means.as_dict().items() if name not in without}
    for name in set(saved) & set(FIELDS):
        saved[name] = {
            condition: {key: value for key, value in group.items() if key not in without}
            for condition, group in saved[name].items()
        }
    write_model(tmp_path / "model", {}, {"means": saved})
    back = TrainingMeans.from_dict(read_model(tmp_path / "model")[1]["means"])
    assert (back.log_expression is None) == ("log_expression" in without)
    assert (back.positions["control"].errors is None) == ("errors" in without)
    for name in FIELDS[: 4 if "log_expression" in without else 5]:
        for condition, group in getattr(means, name).items():
            errors = None if "errors" in without else group.errors
            expected = GroupMeans(group.labels, group.means, group.n_cells, errors)
            assert_same_groups({condition: getattr(back, name)[condition]}, {condition: expected}, rtol=0)
    ask: dict[str, Any] = {"query": np.zeros(4), "estimator": "gp", "bandwidth": 0.2}
    shift, whole = (m.shift("control", "x", **ask) for m in (back, means))
    assert np.isfinite(shift.vector).all()
    assert np.allclose(shift.vector, whole.vector) == ("errors" not in without)


@pytest.mark.parametrize("cut", [2, 25, 57])
def test_joined_means_are_those_of_all_cells_with_their_errors(cut: int) -> None:
    first, second, whole = training_means(slice(cut)), training_means(slice(cut, None)), training_means()
    joined = first.joined(second)
    for name in FIELDS:
        assert_same_groups(getattr(joined, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    old = TrainingMeans.from_dict({k: v for k, v in second.as_dict().items() if k != "log_expression"})
    assert first.joined(old).log_expression is None
    assert old.joined(first).log_expression is None
    plain = {"positions": {c: GroupMeans(g.labels, g.means, g.n_cells) for c, g in second.positions.items()}}
    without = first.joined(TrainingMeans(**{**vars(second), **plain}))
    for condition, group in without.positions.items():
        assert (group.errors is None) == (condition in second.positions)
        np.testing.assert_allclose(group.means, whole.positions[condition].means)


def test_an_observed_change_counts_negative_weights_too() -> None:
    means, labels = training_means(counts=False), ("a", "b", "c")
    weights = dict(zip(labels, (1.4, -0.6, 0.2), strict=True))
    groups = [means.expression[c].only(labels).means for c in ("control", "x")]
    found = means.observed_change("control", "x", Shift(np.zeros(4), "gp", weights))
    np.testing.assert_allclose(found, np.array(list(weights.values())) @ (groups[1] - groups[0]))
