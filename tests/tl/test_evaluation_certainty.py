"""Whether predictions were as sure as they should be: coverage and uncertainty in the table of an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.model import SCGEN
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation
from deltavi.tl._certainty import CERTAINTY, N_TOP, certainty, evidence_of
from tests.tl.conftest import ASK, mean_change

GENES = [f"gene_{i}" for i in range(4)]


def predicted(lower: list[float], change: list[float], upper: list[float], label: str = "B/naive") -> AnnData:
    column, index = label.replace("/", "%2F"), pd.Index(GENES)
    made = AnnData(sp.csr_matrix((2, 4)), var=pd.DataFrame(index=index))
    for name, values in {"lower": lower, "change": change, "upper": upper}.items():
        made.varm[f"deltavi_{name}"] = pd.DataFrame({column: values}, index=index)
    found = pd.DataFrame({"query": [label], "uncertainty": [0.3], "max_training_uncertainty": [0.5]})
    made.uns["deltavi"] = {"uncertainty": found}
    return made


REAL, CONTROL = np.array([[1.0, 2.0, 0.0, 1.0], [3.0, 2.0, 0.0, 1.0]]), np.array([[1.0, 1.0, 0.0, 1.0]])


def test_by_hand() -> None:
    # measured changes: 1, 1, 0, 0
    evidence = evidence_of(predicted([0.5, 1.5, 0.0, -1.0], [1.0, 2.0, 0.0, -0.5], [1.5, 2.5, 0.0, -0.1]))
    found = certainty(evidence, "B/naive", REAL, CONTROL, GENES)
    assert found == pytest.approx({"coverage": 0.5, "coverage_top": 0.5, "half_width": 2.9 / 8, "uncertainty": 0.3})
    assert tuple(found) == CERTAINTY


def test_genes_are_matched_by_name_and_the_top_ones_are_those_predicted() -> None:
    n = N_TOP + 20
    names, rng = [f"g{i}" for i in range(n)], np.random.default_rng(0)
    change = np.r_[np.full(N_TOP, 5.0), np.full(20, 0.1)] * rng.choice([-1, 1], n)
    made = AnnData(sp.csr_matrix((1, n)), var=pd.DataFrame(index=names))
    for name, by in {"lower": -0.5, "change": 0.0, "upper": 0.5}.items():
        made.varm[f"deltavi_{name}"] = pd.DataFrame({"T": change + by}, index=pd.Index(names))
    found = pd.DataFrame({"query": ["T"], "uncertainty": [0.1], "max_training_uncertainty": [0.5]})
    made.uns["deltavi"] = {"uncertainty": found}
    order = rng.permutation(n)
    # the genes that hardly change are far off, the others right
    real = np.where(np.abs(change) > 1, change, 9.0)[None, order]
    found = certainty(evidence_of(made), "T", real, np.zeros((1, n)), np.array(names)[order])
    assert found["coverage_top"] == 1
    assert found["coverage"] == pytest.approx(N_TOP / n)


def test_who_does_not_say_is_not_judged() -> None:
    assert evidence_of(np.zeros((2, 3))) is None
    assert evidence_of(AnnData(np.zeros((2, 3)))) is None
    assert np.isnan(list(certainty(None, "T", REAL, CONTROL, GENES).values())).all()
    other = certainty(evidence_of(predicted(*[[0.0] * 4] * 3)), "T", REAL, CONTROL, GENES)
    assert np.isnan(list(other.values())).all()


def test_without_intervals_the_uncertainty_is_still_known() -> None:
    unknown = [float("nan")] * 4
    found = certainty(evidence_of(predicted(unknown, [0.0] * 4, unknown)), "B/naive", REAL, CONTROL, GENES)
    assert found["uncertainty"] == 0.3
    assert np.isnan([found[name] for name in CERTAINTY[:3]]).all()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> tuple[PerturbationEvaluation, Path]:
    cells = simulate_perturbation(n_genes=120, n_cell_types=5, n_batches=1, n_cells_per_group=60, seed=1)
    method = Method(SCGEN, model_kwargs={"n_hidden": 32, "n_latent": 8}, train_kwargs={"max_epochs": 15})
    folder = tmp_path_factory.mktemp("runs")
    options = {**ASK, "n_genes": 100, "hold_out": ["type_1", "type_2", "type_3"]}
    return evaluate_perturbation(cells, {"SCGEN": method, "sum": mean_change}, **options, folder=folder), folder


def test_a_model_is_about_as_sure_as_it_may_be(evaluation: tuple[PerturbationEvaluation, Path]) -> None:
    table = evaluation[0].table.set_index("method")
    assert 0.75 < table.loc["SCGEN", "coverage"].mean() < 1
    assert (table.loc["SCGEN", "half_width"] > 0).all()
    assert (table.loc["SCGEN", "uncertainty"] > 0).all()
    assert table.drop(index="SCGEN")[list(CERTAINTY)].isna().all().all()
    assert not set(CERTAINTY) & set(evaluation[0].metrics)


def test_files_keep_it(evaluation: tuple[PerturbationEvaluation, Path]) -> None:
    found, folder = evaluation
    loaded = PerturbationEvaluation.load(folder)
    pd.testing.assert_frame_equal(loaded.table[list(CERTAINTY)], found.table[list(CERTAINTY)], check_exact=True)
