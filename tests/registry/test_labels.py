"""Labels of which some are missing, through the manager and a real AnnData."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scvi import REGISTRY_KEYS

from deltavi._compat import FIELD_REGISTRIES_KEY, STATE_REGISTRY_KEY
from deltavi._text import as_text
from deltavi.errors import DeltaviError, LabelWarning, UnknownCategoryError, UnseenCategoryWarning
from deltavi.io._format import decode, encode
from deltavi.registry.columns import codes_of, column, extended
from deltavi.registry.fields import CategoryField
from deltavi.registry.labels import LabelField, label_counts, likely_meant
from deltavi.registry.manager import DataManager
from deltavi.registry.names import sorted_names

KEY = "cell_type"
CODES = "_scvi_labels"
NAN = float("nan")


def cells(labels: Any, *, prefix: str = "cell") -> AnnData:
    """Cells with these labels; text is kept as objects, so that types may mix."""
    values = labels if isinstance(labels, pd.Series | pd.Categorical) else pd.Series(list(labels))
    obs = pd.DataFrame({KEY: values}).set_axis([f"{prefix}{i}" for i in range(len(values))])
    return AnnData(np.ones((len(values), 2), dtype=np.float32), obs=obs)


def register(adata: AnnData, unlabeled: Any = None, **transfer: Any) -> DataManager:
    manager = DataManager(
        fields=[LabelField(REGISTRY_KEYS.LABELS_KEY, KEY, unlabeled_category=unlabeled)], setup_method_args={}
    )
    manager.register_fields(adata, **transfer)
    return manager


def state(manager: DataManager) -> dict[str, Any]:
    found: dict[str, Any] = manager.registry[FIELD_REGISTRIES_KEY]["labels"][STATE_REGISTRY_KEY]
    return found


def mapping(manager: DataManager) -> list[str]:
    return list(state(manager)["categorical_mapping"])


def codes(adata: AnnData) -> list[int]:
    return list(adata.obs[CODES])


def logged(caplog: pytest.LogCaptureFixture, adata: AnnData, *args: Any, **kwargs: Any) -> str:
    with caplog.at_level(logging.INFO, logger="deltavi"):
        register(adata, *args, **kwargs)
    return caplog.text


# -- what is registered --------------------------------------------------------------------------------------


def test_labels_get_codes_and_the_unlabelled_name_none() -> None:
    adata = cells(["T", "B", "todo", "T", "B"])
    manager = register(adata, "todo")
    assert codes(adata) == [1, 0, -1, 1, 0]
    assert mapping(manager) == ["B", "T"]
    assert manager.summary_stats["n_labels"] == 2
    assert set(state(manager)) == {
        "categorical_mapping",
        "original_key",
        "unlabeled_category",
        "cells_sha256",
        "codes_by_cell_name",
    }
    assert list(adata.obs[KEY]) == ["T", "B", "todo", "T", "B"]


def test_the_state_survives_a_model_file() -> None:
    before = state(register(cells(["T", "B", "todo", "T", "B"]), "todo"))
    after = decode(encode(dict(before)))
    assert after["codes_by_cell_name"].dtype == before["codes_by_cell_name"].dtype == np.int8
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


@given(
    drawn=st.lists(st.one_of(st.none(), st.sampled_from(["T", "B", "NK", "todo", "ü | x"])), min_size=6, max_size=40),
    permutation=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_codes_follow_the_cells_whatever_their_order(drawn: list[str | None], permutation: Any) -> None:
    drawn = ["T", "T", "B", "B", *drawn]
    order = list(range(len(drawn)))
    permutation.shuffle(order)
    one = cells(pd.Series(drawn, dtype=object))
    other = one[order].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabelWarning)
        first, second = register(one, "todo"), register(other, "todo")
    assert mapping(first) == mapping(second) == sorted(set(drawn) - {None, "todo"})
    assert codes(other) == [codes(one)[i] for i in order]
    assert state(first)["cells_sha256"] == state(second)["cells_sha256"]
    np.testing.assert_array_equal(state(first)["codes_by_cell_name"], state(second)["codes_by_cell_name"])
    for label, code in zip(drawn, codes(one), strict=True):
        assert code == (-1 if label in (None, "todo") else mapping(first).index(label))


def test_unused_categories_are_dropped() -> None:
    adata = cells(pd.Categorical(["T", "B", "T", "B"], categories=["gone", "T", "never", "B"]))
    assert mapping(register(adata)) == ["B", "T"]
    assert codes(adata) == [1, 0, 1, 0]


@pytest.mark.parametrize("dtype", ["object", "category", "string", "string[pyarrow]"])
def test_any_storage_of_text_gives_the_same_codes(dtype: str) -> None:
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    adata = cells(pd.Series(["T", "B", None, "todo", "T", "B"], dtype=object).astype(dtype))
    assert mapping(register(adata, "todo")) == ["B", "T"]
    assert codes(adata) == [1, 0, -1, -1, 1, 0]


@pytest.mark.parametrize("dtype", ["int64", "int8", "float64", "Int64", "category"])
def test_numbers_become_text_and_the_unlabelled_one_may_be_written_as_text(dtype: str) -> None:
    adata = cells(pd.Series([2, 10, -1, 2, 10]).astype(dtype))
    for unlabeled in ("-1", -1, -1.0):
        manager = register(adata.copy(), unlabeled)
        assert mapping(manager) == ["10", "2"]
    register(adata, "-1")
    assert codes(adata) == [1, 0, -1, 1, 0]


def test_numbers_next_to_missing_ones_keep_their_names() -> None:
    adata = cells(pd.Series([2, 10, NAN, 2, 10]))
    assert mapping(register(adata)) == ["10", "2"]
    assert codes(adata) == [1, 0, -1, 1, 0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), (np.float32(3), "3"), (np.int8(-1), "-1"), (2.5, "2.5"), (True, "True"), ("a", "a")],
)
def test_text_of_a_label(value: object, text: str) -> None:
    assert as_text(value) == text


# -- labels that are missing ---------------------------------------------------------------------------------


def test_missing_labels_are_unlabelled_and_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    adata = cells(["T", None, "B", NAN, "T", "B"])
    text = logged(caplog, adata)
    assert codes(adata) == [1, -1, 0, -1, 1, 0]
    assert f"obs['{KEY}'] is missing for 2 of 6 cells" in text
    assert "unlabelled" in text


def test_without_an_unlabelled_name_only_missing_labels_count() -> None:
    adata = cells(["T", "todo", "B", None, "T", "B", "todo"])
    assert mapping(register(adata)) == ["B", "T", "todo"]
    assert codes(adata)[1] >= 0


@pytest.mark.parametrize(
    ("given_name", "there"),
    [
        ("Unknown", "Unkown"),
        ("Unknown", "unknown "),
        ("unlabeled", "unlabelled"),
        ("to label", "To_label"),
        ("Unknown", "nan"),
        ("Unknown", "NA"),
        ("todo", "Unassigned"),
        ("unknown", "-1"),
    ],
)
def test_a_typo_in_the_unlabelled_name_is_an_error_that_suggests(given_name: str, there: str) -> None:
    adata = cells(["T", "B", there, "T", "B", there])
    with pytest.raises(UnknownCategoryError) as caught:
        register(adata, given_name)
    message = str(caught.value)
    assert f"obs['{KEY}']" in message
    assert f"Did you mean {there!r}, which 2 cells" in message
    assert f"unlabeled_category={there!r}, or None" in message
    assert "'B'" in message
    assert CODES not in adata.obs


def test_numbers_with_a_textual_name_for_none_are_told_apart() -> None:
    with pytest.raises(UnknownCategoryError, match="Did you mean '-1', which 2 cells"):
        register(cells(pd.Series([1, 2, -1, 1, 2, -1])), "unknown")
    assert mapping(register(cells(pd.Series([1, 2, 1, 2])), "-1")) == ["1", "2"]
    assert mapping(register(cells(pd.Series([1, 2, 1, 2])), "unknown")) == ["1", "2"]


def test_a_cell_type_is_not_taken_for_a_typo() -> None:
    for name in ("Neuron", "Unknown cell of the gut", "1", "NK", "T"):
        assert likely_meant("Unknown", [name]) is None
        assert likely_meant("-1", [name]) is None


def test_an_absent_unlabelled_name_means_that_every_cell_is_labelled(caplog: pytest.LogCaptureFixture) -> None:
    text = logged(caplog, cells(["T", "B", "T", "B"]), "Unknown")
    assert f"obs['{KEY}']: every cell is labelled, none is called 'Unknown'" in text


@pytest.mark.parametrize("none", [["todo"] * 4, [None] * 4, ["todo", None, NAN, "todo"]])
def test_no_labelled_cell_at_all(none: list[Any]) -> None:
    with pytest.raises(DeltaviError, match=f"obs\\['{KEY}'\\]: none of the 4 cells has a label") as caught:
        register(cells(pd.Series(none, dtype=object)), "todo" if "todo" in none else None)
    assert "'cell0', 'cell1', 'cell2' and 1 more" in str(caught.value)
    assert "at least 2 types" in str(caught.value)
    assert "VAE" in str(caught.value)


def test_one_label_only() -> None:
    with pytest.raises(DeltaviError, match=f"obs\\['{KEY}'\\] holds one label only, 'T', in 3 of 5 cells") as caught:
        register(cells(["T", "todo", "T", "T", "todo"]), "todo")
    assert "at least 2" in str(caught.value)
    assert "name another column" in str(caught.value)


# -- labels that may not be what was meant -------------------------------------------------------------------


def test_labels_that_differ_by_case_or_spaces() -> None:
    adata = cells(["T cell", "t cell", "Tcell ", "B", "NK", "nk"] * 2)
    with pytest.warns(LabelWarning, match=f"obs\\['{KEY}'\\]: 4 pairs") as caught:
        manager = register(adata)
    assert len(caught) == 1
    assert "'NK' and 'nk', 'T cell' and 'Tcell '" in str(caught[0].message)
    assert "and 1 more pairs" in str(caught[0].message)
    assert "rename them" in str(caught[0].message)
    assert manager.summary_stats["n_labels"] == 6


def test_a_second_spelling_of_the_unlabelled_name() -> None:
    with pytest.warns(LabelWarning, match="1 pairs of labels differ only by case.*'Unknown' and 'unknown'") as caught:
        register(cells(["T", "B", "Unknown", "unknown"] * 2), "Unknown")
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("unlabeled", "way"), [(None, "pass unlabeled_category='nan'"), ("todo", "set those cells to missing")]
)
def test_a_label_that_reads_like_none_is_learned_with_a_warning(unlabeled: str | None, way: str) -> None:
    with pytest.warns(LabelWarning, match=f"obs\\['{KEY}'\\]: 2 cells are called 'nan'") as caught:
        manager = register(cells(["T", "B", "nan", "todo"] * 2), unlabeled)
    assert len(caught) == 1
    assert way in str(caught[0].message)
    assert "nan" in mapping(manager)


def test_labels_of_a_single_cell() -> None:
    with pytest.warns(LabelWarning, match=f"obs\\['{KEY}'\\]: 2 of 4 labels have a single cell") as caught:
        register(cells(["T", "T", "B", "B", "NK", "Mono", "todo"]), "todo")
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "'Mono', 'NK'" in message
    assert "kept out of the calibration split" in message
    assert "Merge them" in message


def test_mixed_types_are_read_as_text() -> None:
    adata = cells([1, "1", "B", 2.0, "B", 2, None, True, True])
    with pytest.warns(LabelWarning, match=f"obs\\['{KEY}'\\] mixes labels of 2 types") as caught:
        manager = register(adata)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "2 of type number (1, 2.0)" in message
    assert "2 of type str ('1', 'B')" in message
    assert "astype(str)" in message
    assert mapping(manager)[:2] == ["1", "2"]
    assert codes(adata)[0] == codes(adata)[1] == 0
    assert codes(adata)[3] == codes(adata)[5] == 1


# -- queries -------------------------------------------------------------------------------------------------


def test_new_labels_of_a_query_are_unlabelled_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    registry = register(cells(["T", "B", "T", "B", "todo"]), "todo").registry
    query = cells(["B", "Mono", "todo", None, "NK", "NK"], prefix="query")
    text = logged(caplog, query, "todo", source_registry=registry)
    assert codes(query) == [0, -1, -1, -1, -1, -1]
    assert f"obs['{KEY}'] holds 2 labels that training did not see (for example 'Mono', 'NK'), in 3 cells" in text


def test_a_query_without_the_column() -> None:
    registry = register(cells(["T", "B", "T", "B"])).registry
    query = cells(["T", "B"], prefix="query")
    del query.obs[KEY]
    manager = register(query, source_registry=registry)
    assert codes(query) == [-1, -1]
    assert mapping(manager) == ["B", "T"]
    manager.validate()


def test_a_query_may_hold_numbers_where_training_held_text() -> None:
    registry = register(cells(["1", "2", "1", "2"])).registry
    query = cells(pd.Series([2, 1, NAN]), prefix="query")
    register(query, source_registry=registry)
    assert codes(query) == [1, 0, -1]


def test_mapping_a_query_never_adds_labels() -> None:
    registry = register(cells(["T", "B", "T", "B", "todo"]), "todo").registry
    query = cells(["B", "Mono", "Mono", "todo", "NK"], prefix="query")
    with pytest.warns(UnseenCategoryWarning, match=f"obs\\['{KEY}'\\] holds 2 labels.*in 3 cells") as caught:
        manager = register(query, "todo", source_registry=registry, extend_categories=True)
    assert len(caught) == 1
    assert "treated as unlabelled" in str(caught[0].message)
    assert "Train a new model" in str(caught[0].message)
    assert codes(query) == [0, -1, -1, -1, -1]
    assert mapping(manager) == ["B", "T"]
    assert manager.summary_stats["n_labels"] == 2


# -- the training cells with other labels --------------------------------------------------------------------


def test_the_same_cells_with_the_same_labels_in_another_order() -> None:
    adata = cells(["T", "B", "T", "B", "todo"])
    registry = register(adata, "todo").registry
    again = cells(["T", "B", "T", "B", "todo"])[[3, 0, 4, 1, 2]].copy()
    manager = register(again, "todo", source_registry=registry)
    assert codes(again) == [0, 1, -1, 0, 1]
    assert set(state(manager)) == set(state(register(adata.copy(), "todo")))


def test_swapped_labels_of_the_training_cells() -> None:
    registry = register(cells(["T", "B", "T", "B", "todo", "T"]), "todo").registry
    swapped = cells(["B", "T", "B", "T", "todo", "T"])[::-1].copy()
    with pytest.raises(DeltaviError, match=f"4 of 6 cells carry another label in obs\\['{KEY}'\\]") as caught:
        register(swapped, "todo", source_registry=registry)
    message = str(caught.value)
    assert "'cell0', 'cell1', 'cell2' and 1 more" in message
    assert "Restore those labels" in message
    assert "rename them" in message
    assert CODES not in swapped.obs


@pytest.mark.parametrize(
    "labels",
    [
        ["todo"] * 6,
        [None] * 6,
        ["T", None, "todo", "B", "B", "T"],
        ["T", "B", "T", "B", "T", "new"],
    ],
    ids=["unlabelled", "missing", "partly", "found since"],
)
def test_the_training_cells_with_hidden_or_added_labels_are_a_query(labels: list[Any]) -> None:
    registry = register(cells(["T", "B", "T", "B", "todo", "T"]), "todo").registry
    register(cells(pd.Series(labels, dtype=object)), "todo", source_registry=registry)


def test_the_training_cells_without_the_column_are_a_query() -> None:
    registry = register(cells(["T", "B", "T", "B"])).registry
    hidden = cells(["T", "B", "T", "B"])
    del hidden.obs[KEY]
    register(hidden, source_registry=registry)


def test_other_cells_are_not_compared() -> None:
    registry = register(cells(["T", "B", "T", "B"])).registry
    register(cells(["B", "T", "B", "T"], prefix="other"), source_registry=registry)
    register(cells(["B", "T", "B"]), source_registry=registry)
    register(cells(["B", "T", "B", "T"]), source_registry=registry, extend_categories=True)


def test_names_that_do_not_tell_cells_apart_are_not_compared() -> None:
    for names in (["0", "1", "2", "3"], ["a", "a", "b", "c"]):
        one, other = cells(["T", "B", "T", "B"]), cells(["B", "T", "B", "T"])
        one.obs.index = other.obs.index = names
        assert sorted_names(one.obs_names).empty
        register(other, source_registry=register(one).registry)


def test_a_mapped_query_is_known_by_its_own_cells() -> None:
    registry = register(cells(["T", "B", "T", "B"])).registry
    mapped = register(cells(["T", "T", "B"], prefix="query"), source_registry=registry, extend_categories=True)
    with pytest.raises(DeltaviError, match="2 of 3 cells carry another label"):
        register(cells(["T", "B", "T"], prefix="query"), source_registry=mapped.registry)


# -- edits after registration --------------------------------------------------------------------------------


def test_an_edited_label_is_an_error() -> None:
    adata = cells(["T", "B", "todo", "T", "B"])
    manager = register(adata, "todo")
    manager.validate()
    adata.obs.loc[["cell0", "cell2"], KEY] = "B"
    with pytest.raises(DeltaviError, match=f"obs\\['{KEY}'\\] was edited after setup_anndata: 2 of 5 cells") as caught:
        manager.validate()
    assert "'cell0', 'cell2'" in str(caught.value)
    assert "Undo the edit" in str(caught.value)
    assert "train a new model" in str(caught.value)


@pytest.mark.parametrize(
    "convert",
    [
        lambda s: s.astype("category"),
        lambda s: s.astype("string"),
        lambda s: s.astype("Int64"),
        lambda s: s.astype(float),
        lambda s: s.astype(object),
        lambda s: s.astype("category").cat.add_categories([99]),
        lambda s: s.replace(-1, NAN),
    ],
)
def test_another_type_is_no_edit(convert: Any) -> None:
    adata = cells(pd.Series([2, 10, -1, 2, 10]))
    manager = register(adata, "-1")
    adata.obs[KEY] = convert(column(adata, KEY))
    manager.validate()


def test_labels_added_to_a_query_that_had_none_are_no_edit() -> None:
    registry = register(cells(["T", "B", "T", "B"])).registry
    query = cells(["T", "B"], prefix="query")
    del query.obs[KEY]
    manager = register(query, source_registry=registry)
    query.obs[KEY] = ["T", "T"]
    manager.validate()


def test_a_refused_registration_leaves_nothing_behind() -> None:
    adata = cells(["T", "B", "T", "B"])
    adata.obs["batch"] = ["a", "b", "a", "b"]

    def attempt(key: str) -> DataManager:
        fields = [CategoryField("batch", "batch"), LabelField("labels", key, unlabeled_category="B")]
        manager = DataManager(fields=fields, setup_method_args={})
        manager.register_fields(adata)
        return manager

    with pytest.raises(DeltaviError, match="one label only"):
        attempt(KEY)
    assert list(adata.obs) == [KEY, "batch"]
    adata.obs["finer"] = ["T1", "T2", "B", "T1"]
    with pytest.warns(LabelWarning, match="single"):
        manager = attempt("finer")
    before = adata.obs.copy()
    with pytest.raises(DeltaviError, match="one label only"):
        attempt(KEY)
    pd.testing.assert_frame_equal(adata.obs, before)
    manager.validate()


def test_another_registration_in_between_changes_no_codes_and_is_quiet() -> None:
    adata = cells(["T", "B", "T", "B", "NK"])
    with pytest.warns(LabelWarning, match="single"):
        manager = register(adata)
    adata.obs["other"] = ["x", "x", "y", "y", "y"]
    DataManager(fields=[LabelField("labels", "other", unlabeled_category=None)], setup_method_args={}).register_fields(
        adata
    )
    assert codes(adata) == [0, 0, 1, 1, 1]
    adata.obs[KEY] = adata.obs[KEY].astype("category")
    np.testing.assert_array_equal(np.ravel(manager.get_from_registry("labels")), [2, 0, 2, 0, 1])
    assert mapping(manager) == ["B", "NK", "T"]


def test_what_was_warned_of_is_not_repeated() -> None:
    registry = register(cells(["T", "B", "T", "B"])).registry
    query = cells(["T", "B", "Mono"], prefix="query")
    with pytest.warns(UnseenCategoryWarning):
        manager = register(query, source_registry=registry, extend_categories=True)
    query.obs["other"] = ["x", "x", "y"]
    register_other = DataManager(fields=[CategoryField("labels", "other")], setup_method_args={})
    register_other.register_fields(query)
    manager.validate()
    assert codes(query) == [1, 0, -1]


def test_counts_of_labels() -> None:
    assert label_counts(pd.Series(["b", None, "a", "b"])) == {"a": 1, "b": 2}
    assert label_counts(pd.Series([], dtype=object)) == {}


def test_a_number_and_its_text_are_one_category_unless_both_are_known() -> None:
    as_text, as_numbers = pd.Series(["2", "1", None, "x"]), pd.Series([2, 1, 2])
    assert list(codes_of(as_text, np.array([1, 2], dtype=object))) == [1, 0, -1, -1]
    assert list(codes_of(as_numbers, np.array(["1", "2"], dtype=object))) == [1, 0, 1]
    assert list(codes_of(as_text, np.array([1, "1"], dtype=object))) == [-1, 1, -1, -1]
    assert list(codes_of(pd.Series(["2"]), np.array([2, "2.0", "y"], dtype=object))) == [0]
    assert list(extended(np.array([1, 2], dtype=object), pd.Series(["1", "3"]), "batch")) == [1, 2, "3"]
