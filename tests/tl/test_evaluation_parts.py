"""The parts of an evaluation on their own: splits, cells on both sides, methods, silence."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi.errors import ConvergenceWarning, InputDataError
from deltavi.model import MIXVI, SCGEN, VAE
from deltavi.tl import Method
from deltavi.tl._experiment import _scores_of_top_genes, prepare, training_ranking
from deltavi.tl._masks import CellIdentities
from deltavi.tl._methods import resolve_methods, rows_of
from deltavi.tl._splits import SMALLEST_GROUP, HoldOut, question_of, resolve_hold_outs
from deltavi.tl.quiet import collected_warnings, one_thread
from tests.tl.conftest import mean_change

KEYS = {"condition_key": "condition", "labels_key": "cell_type"}


def crossed(sizes: dict[tuple[str, str], int]) -> AnnData:
    """Cells of some labels and conditions, so many of each, without expression."""
    rows = [key for key, n_cells in sizes.items() for _ in range(n_cells)]
    obs = pd.DataFrame(rows, columns=["cell_type", "condition"], index=[f"cell{i}" for i in range(len(rows))])
    return AnnData(obs=obs)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2 * SMALLEST_GROUP), min_size=6, max_size=6))
def test_a_sweep_splits_what_it_can_and_lists_the_rest(n_cells: list[int]) -> None:
    """Three labels, two conditions, any numbers of cells: every label is held out or skipped, never both."""
    groups = [(label, condition) for label in "abc" for condition in ("control", "perturbation")]
    sizes = dict(zip(groups, n_cells, strict=True))
    # one more label, large enough, so that there is always something to evaluate and to learn from
    sizes |= {(label, condition): 10 for label in "yz" for condition in ("control", "perturbation")}
    adata = crossed(sizes)
    hold_outs, skipped = resolve_hold_outs(question_of(adata, control="control", **KEYS), None)
    scored = {label for label in "abc" if min(sizes[label, "control"], sizes[label, "perturbation"]) >= SMALLEST_GROUP}
    assert {part.name for part in hold_outs} == scored | {"y", "z"}
    assert {part.hold_out for part in skipped} == set(adata.obs["cell_type"]) - scored - {"y", "z"}
    for part in hold_outs:
        assert set(zip(adata.obs["cell_type"][part.held_out], adata.obs["condition"][part.held_out], strict=True)) == {
            (part.name, "perturbation")
        }
        assert (adata.obs["condition"][part.query] == "control").all()
        assert int(part.query.sum()) == sizes.get((part.name, "control"))


def test_unlabelled_cells_of_a_donor_are_hidden_but_not_asked_for() -> None:
    adata = crossed({(label, condition): 20 for label in "abc" for condition in ("control", "perturbation")})
    adata.obs["donor"] = np.tile(["x", "y"], 60)
    lost = np.asarray((adata.obs["cell_type"] == "c") & (adata.obs["donor"] == "x"))
    adata.obs.loc[lost, "cell_type"] = np.nan
    hold_outs, _ = resolve_hold_outs(question_of(adata, control="control", **KEYS), "donor")
    of_x = hold_outs[0]
    assert (of_x.name, of_x.labels) == ("x", ("a", "b"))
    assert int(of_x.held_out.sum()) == 30
    assert int(of_x.query.sum()) == 20


def test_the_query_of_a_mask_is_all_control_cells_of_its_labels() -> None:
    adata = crossed({(label, condition): 20 for label in "abc" for condition in ("control", "perturbation")})
    mask = np.asarray((adata.obs["condition"] == "perturbation") & (adata.obs["cell_type"] == "a"))
    mask = mask & (np.cumsum(mask) <= 12)
    (part,), _ = resolve_hold_outs(question_of(adata, control="control", **KEYS), {"some": mask})
    assert (int(part.held_out.sum()), int(part.query.sum())) == (12, 20)


def test_every_other_condition_is_a_target() -> None:
    adata = crossed({(label, condition): 10 for label in "ab" for condition in ("z", "y", "x")})
    assert question_of(adata, control="y", **KEYS).perturbations == ("x", "z")
    assert question_of(adata, control="y", perturbation="z", **KEYS).perturbations == ("z",)
    assert question_of(adata, control="y", perturbation=("z", "x", "z"), **KEYS).perturbations == ("z", "x")


@pytest.mark.parametrize("total", [50, 51])
def test_from_which_total_equal_counts_are_the_same_cell(total: int) -> None:
    x = np.zeros((4, 5), dtype=np.float32)
    x[0, 2] = x[3, 2] = total
    x[1, 1], x[2, 4] = 900, 900
    adata = AnnData(sparse.csr_matrix(x), obs=pd.DataFrame(index=list("abcd")))
    held_out = np.array([True, False, False, False])
    if total == 50:
        CellIdentities(adata).require_apart(held_out, "here")
    else:
        with pytest.raises(InputDataError, match=r"here: 1 of 1 held-out cells have the counts.*\('a'\)"):
            CellIdentities(adata).require_apart(held_out, "here")


def test_duplicates_on_one_side_are_no_leak() -> None:
    x = sparse.csr_matrix(np.array([[99, 0], [99, 0], [0, 99], [0, 99]], dtype=np.float32))
    adata = AnnData(x, obs=pd.DataFrame(index=list("abcd")))
    CellIdentities(adata).require_apart(np.array([True, True, False, False]), "here")


def test_genes_of_scores_named_top() -> None:
    names = ["mse_top", "r2_top7", "direction_accuracy", "stop", "top_gun", "e_distance"]
    assert _scores_of_top_genes(names) == {100: ["mse_top", "direction_accuracy"], 7: ["r2_top7"]}


def test_the_ranking_needs_labels_in_both_conditions(adata: AnnData) -> None:
    """A label that training saw in one condition says nothing of a response."""
    perturbation = np.asarray(adata.obs["condition"] == "stimulated")
    held_out = perturbation & np.asarray(adata.obs["cell_type"] == "type_1")
    part = HoldOut("mine", "stimulated", held_out, ~perturbation, ("type_1",))
    cells = prepare(adata, part, condition_key="condition", layer=None, n_genes=40, genes_from_all_cells=False)
    assert cells.reference.n_obs == 0
    ask = {"control": "control", "perturbation": "stimulated", **KEYS}
    ranking = training_ranking(cells.train, **ask)
    others = training_ranking(cells.train[cells.train.obs["cell_type"] != "type_1"].copy(), **ask)
    assert sorted(ranking) == list(range(40))
    assert np.array_equal(ranking, others)


def test_a_model_none_a_list_and_a_mapping() -> None:
    assert list(resolve_methods(None)) == ["SCGEN"]
    assert resolve_methods(VAE)["VAE"].model_class is VAE
    assert list(resolve_methods([MIXVI, mean_change])) == ["MIXVI", "mean_change"]
    method = Method(SCGEN, predict={"": {}, "x": {"shift": "paired"}})
    assert resolve_methods(method) == {"SCGEN": method}
    assert rows_of("a", method) == ["a", "a, x"]
    assert rows_of("a", mean_change) == ["a"]


def test_threads_come_back_after_an_error() -> None:
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_what_this_package_says_is_collected(capfd: Any) -> None:
    with collected_warnings() as said:
        warnings.warn("not settled", ConvergenceWarning, stacklevel=1)
        warnings.warn("not settled", ConvergenceWarning, stacklevel=1)
        warnings.warn("of others", UserWarning, stacklevel=1)
        logging.getLogger("deltavi").warning("too short")
        logging.getLogger("deltavi").info("detail")
        logging.getLogger("lightning.pytorch").warning("tip")
    assert said == ["too short", "not settled"]
    assert capfd.readouterr() == ("", "")


def test_loggers_come_back_after_an_error() -> None:
    logger = logging.getLogger("lightning.pytorch")
    before, handlers = logger.level, list(logging.getLogger("deltavi").handlers)
    with pytest.raises(KeyError), collected_warnings():
        raise KeyError
    assert logger.level == before
    assert logging.getLogger("deltavi").handlers == handlers
