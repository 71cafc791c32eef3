"""Numbers, masks, names, devices and objects, as the helpers of all public functions read them."""

from __future__ import annotations

import datetime
import warnings
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from anndata.experimental import AnnCollection
from hypothesis import given
from hypothesis import strategies as st
from mudata import MuData

from deltavi._devices import chosen_device, torch_device
from deltavi._entries import (
    choice,
    flag,
    names,
    number,
    positions,
    require_anndata,
    seed_number,
    share,
    shown,
    whole_number,
)
from deltavi.errors import DeltaviError

CELLS = pd.Index(["a", "b", "c", "d"])
MASK = [True, False, True, False]

THREES = [
    3,
    3.0,
    np.int8(3),
    np.uint64(3),
    np.float16(3),
    np.float64(3),
    np.longdouble(3),
    np.array(3),
    torch.tensor(3),
]
NO_NUMBERS = [
    *(None, True, np.True_, torch.tensor(True), "3", b"3", np.str_("3"), [3], (3,), {3}, {3: 3}, np.array([3])),
    *(torch.tensor([3]), float("nan"), float("inf"), np.float32("-inf"), 3j, np.complex64(3), Decimal(3)),
    *(pd.NA, pd.NaT, pd.Timedelta(3), np.timedelta64(3, "s"), np.datetime64("2020"), datetime.timedelta(3)),
    *(np.ma.masked, np.ma.array(3, mask=True), object(), int, len, ..., slice(3), 10**400, -(10**400), Path("3")),
]
ODD = [*THREES, *NO_NUMBERS]
ANYTHING = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    st.decimals() | st.fractions() | st.datetimes() | st.timedeltas() | st.lists(st.integers()) | st.sets(st.text()),
    # some of them cannot be hashed, which to sample from them would need
    st.integers(0, len(ODD) - 1).map(ODD.__getitem__),
    st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text()),
)


@pytest.mark.parametrize("value", THREES, ids=repr)
def test_a_three_is_a_three(value: Any) -> None:
    found = whole_number("n", value, least=3, most=3), seed_number("seed", value), number("x", value)
    assert found == (3, 3, 3.0)
    assert [type(v) for v in found] == [int, int, float]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: type(v).__name__)
def test_what_is_no_number(value: Any) -> None:
    for read in (whole_number, seed_number, number, share):
        with pytest.raises(DeltaviError, match=r"^its name must be a .*number"):
            read("its name", value)


def test_bounds_are_named() -> None:
    with pytest.raises(DeltaviError, match=r"^n must be a whole number of at least 1, not 0\.$"):
        whole_number("n", 0, least=1)
    with pytest.raises(DeltaviError, match=r"^n must be a whole number from 1 to 3, not 4\.$"):
        whole_number("n", 4, least=1, most=3)
    with pytest.raises(DeltaviError, match=r"^p must be a number from 0 to 1, not 1\.5\.$"):
        share("p", 1.5)
    with pytest.raises(DeltaviError, match=r"^seed must be a whole number from 0 to 4\.29497e\+09, not -1\.$"):
        seed_number("seed", -1)
    assert seed_number("seed", 2**32 - 1) == 2**32 - 1
    assert (share("p", np.float32(1)), share("p", 0), number("x", Fraction(1, 2))) == (1.0, 0.0, 0.5)


@given(value=ANYTHING)
def test_any_value_is_read_or_refused_by_name(value: Any) -> None:
    readers: list[Callable[[], Any]] = [
        lambda: whole_number("its name", value, least=0),
        lambda: number("its name", value),
        lambda: share("its name", value),
        lambda: seed_number("its name", value),
        lambda: flag("its name", value),
        lambda: choice("its name", value, ("one", "two")),
        lambda: names("its name", value),
        lambda: positions(value, 4, name="its name"),
        lambda: torch_device("its name", value),
        lambda: require_anndata(value, name="its name"),
    ]
    kinds = (int, float, float, int, bool, str, list, np.ndarray, torch.device, AnnData)
    for read, kind in zip(readers, kinds, strict=True):
        refusal = ""
        try:
            found = read()
        except DeltaviError as error:
            refusal = str(error)
        assert ("its name" in refusal and len(refusal) < 400) if refusal else type(found) is kind


def test_a_message_shows_a_value_on_one_short_line() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in (
        np.zeros((99, 99)),
        "x" * 999,
        10**5000,
        Broken(),
        AnnData(np.ones((3, 3))),
        pd.DataFrame({"a": [1]}),
    ):
        text = shown(value)
        assert 0 < len(text) < 90
        assert "\n" not in text
    assert "Broken" in shown(Broken())


# -- switches and names ----------------------------------------------------------------------------------------


def test_switches_and_choices() -> None:
    assert flag("soft", np.True_) is True
    for value in (0, 1, None, "True", np.array([True])):
        with pytest.raises(DeltaviError, match=r"^soft must be True or False, not"):
            flag("soft", value)
    assert choice("mode", "change", ("vanilla", "change")) == "change"
    with pytest.raises(DeltaviError, match=r"^mode must be one of 'vanilla', 'change', not 'Chnage'. Did you"):
        choice("mode", "Chnage", ("vanilla", "change"))


@pytest.mark.parametrize(
    "value",
    [
        *(["b", "a"], ("b", "a"), np.array(["b", "a"]), pd.Series(["b", "a"]), pd.Index(["b", "a"]), deque(["b", "a"])),
        *(pd.Categorical(["b", "a"]), {"b": 1, "a": 2}.keys(), iter(["b", "a"]), pd.array(["b", "a"], dtype="string")),
    ],
    ids=lambda v: type(v).__name__,
)
def test_names_keep_their_order(value: Any) -> None:
    assert names("labels", value) == ["b", "a"]


def test_one_name_and_none() -> None:
    assert (names("k", "ab"), names("k", 0), names("k", None), names("k", {"b", "a"})) == (["ab"], [0], [], ["a", "b"])
    assert names("k", np.array("ab")) == ["ab"]
    many = [str(i) for i in range(50_000)]
    assert names("k", many) == many
    with pytest.raises(DeltaviError, match=r"^k names 'a' more than once"):
        names("k", ["a", "b", "a"])


@pytest.mark.parametrize(
    "value",
    [
        *([["a"]], [("a", "b")], np.array([["a", "b"]]), pd.DataFrame({"a": [1]}), object(), [np.array(["a", "b"])]),
        *(np.ma.array(["a", "b"], mask=[1, 0]), AnnData(np.ones((2, 2))), torch.ones(2, 2)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_names_are_flat(value: Any) -> None:
    with pytest.raises(DeltaviError, match=r"^labels must be a (flat list|name or a list) of names, not "):
        names("labels", value)


# -- cells -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask",
    [
        *(MASK, tuple(MASK), np.array(MASK), np.array(MASK, dtype=object), pd.Series(MASK), pd.Index(MASK)),
        *(pd.array(MASK, dtype="boolean"), pd.Series(MASK, dtype="bool[pyarrow]"), pd.Categorical(MASK)),
        *(torch.tensor(MASK), dask.array.from_array(np.array(MASK)), np.ma.array(MASK), deque(MASK)),
        *(
            pd.arrays.SparseArray(MASK),
            [0, 2],
            np.array([0, 2], dtype=np.uint8),
            range(0, 4, 2),
            {2, 0},
            np.int64([0, 2]),
        ),
        *(pd.array([0, 2]), pd.Series([0, 2], dtype="int64[pyarrow]"), torch.tensor([0, 2]), pd.Index([0, 2])),
    ],
    ids=lambda v: f"{type(v).__name__} {getattr(v, 'dtype', '')}",
)
def test_masks_and_positions_of_any_type(mask: Any) -> None:
    found = positions(mask, 4, cells=CELLS)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [0, 2])


def test_order_and_repetition_are_kept() -> None:
    np.testing.assert_array_equal(positions([3, 0, 0], 4), [3, 0, 0])
    np.testing.assert_array_equal(positions(None, 3), [0, 1, 2])
    for nothing in ([], np.array([], dtype=int), [False] * 4):
        assert len(positions(nothing, 4)) == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["a", "b"], r"positions or a mask over all cells \(for example 'a', 'b'\). Of names, .*get_indexer\(idx1\)"),
        ([-1, 2], r"1 of 2 idx1 lie outside 0..3 \(for example -1\)"),
        ([4], r"1 of 1 idx1 lie outside 0..3 \(for example 4\)"),
        ([2**70], "idx1 must be a one-dimensional list"),
        (np.array([2**63], dtype=np.uint64), "lie outside"),
        ([True, False], "The mask idx1 has 2 entries for 4 cells"),
        ([True, 2], "idx1 must be .* truth values and numbers are mixed"),
        (np.array([True, 2], dtype=object), "truth values and numbers are mixed"),
        ([1.0, 2.0], "for example 1.0, 2.0"),
        ([None, 1], "idx1 has missing entries"),
        (pd.array([True, None, False, True], dtype="boolean"), "idx1 has missing entries"),
        (np.ma.array([0, 1], mask=[0, 1]), "idx1 has masked entries"),
        *((v, "idx1 must be a one-dimensional list") for v in (1, np.int64(1), "c1", b"\x00", ..., slice(2), {0: 1})),
        *((v, "idx1 must be a one-dimensional list") for v in ([[0, 1]], [[0], [1, 2]], {1, "a"}, (i for i in (0, 1)))),
        (sp.csr_matrix(np.eye(4)), "idx1 must be"),
        (torch.eye(4).to_sparse(), "idx1 must be"),
        (pd.DataFrame({"m": MASK}), "idx1 must be"),
        (AnnData(np.eye(4)), "idx1 must be"),
        (pd.MultiIndex.from_tuples([(0, 1)]), "idx1 must be"),
        (pd.date_range("2020", periods=4), "idx1 must be"),
    ],
    ids=lambda v: None if isinstance(v, str) else type(v).__name__,
)
def test_what_chooses_no_cells(value: Any, words: str) -> None:
    with pytest.raises(DeltaviError, match=words):
        positions(value, 4, name="idx1")


def test_a_mask_with_names_follows_the_names() -> None:
    mask = pd.Series(MASK, index=CELLS)
    for same in (mask, mask[::-1], mask.astype("boolean").iloc[[2, 0, 3, 1]]):
        np.testing.assert_array_equal(positions(same, 4, cells=CELLS), [0, 2])
    # positions are none of the names it carries, and numbers of rows are no names
    np.testing.assert_array_equal(positions(pd.Series([2, 0], index=["x", "y"]), 4, cells=CELLS), [2, 0])
    np.testing.assert_array_equal(positions(pd.Series(MASK, index=[3, 2, 1, 0]), 4, cells=CELLS), [0, 2])
    repeated = pd.Index(["a", "a", "b", "c"])
    np.testing.assert_array_equal(positions(pd.Series(MASK, index=repeated), 4, cells=repeated), [0, 2])
    with pytest.raises(DeltaviError, match=r"names of other cells: 2 of 4 .*'b', 'd'.*indices.to_numpy\(\)"):
        positions(pd.Series(MASK, index=list("axcy")), 4, cells=CELLS)


# -- AnnData and devices -----------------------------------------------------------------------------------------


def anndata() -> AnnData:
    return AnnData(sp.csr_matrix(np.ones((2, 2), dtype=np.float32)), obs=pd.DataFrame(index=["a", "b"]))


def collections() -> tuple[MuData, AnnCollection]:
    # both warn of what their next versions will do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = MuData({"rna": anndata(), "atac": anndata()}), AnnCollection([anndata(), anndata()], index_unique="-")
    return both


MUDATA, COLLECTION = collections()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x.h5ad", "a str: read the file first"),
        (Path("x.h5ad"), "read the file first"),
        (None, "None: pass"),
        (pd.DataFrame({"g": [1]}), r"a DataFrame: pass anndata.AnnData\(table\)"),
        (COLLECTION, r"a AnnCollection: pass its cells in memory, collection\[:\]"),
        (MUDATA, r"a MuData: pass one of its modalities, mdata\['rna'\], mdata\['atac'\]"),
        ([anndata()], "a list: join several with anndata.concat"),
        (AnnData, "a class: pass an object"),
        (np.ones((2, 2)), "a ndarray: pass an AnnData, with names of cells and genes"),
        (sp.csr_matrix(np.ones((2, 2))), "pass an AnnData, with names of cells and genes"),
        (dask.array.ones((2, 2)), "pass an AnnData, with names of cells and genes"),
        (torch.ones(2, 2), "pass an AnnData, with names of cells and genes"),
        (3, "a int: pass an anndata.AnnData"),
    ],
    ids=lambda v: None if isinstance(v, str) else type(v).__name__,
)
def test_an_object_that_is_no_anndata(value: Any, words: str) -> None:
    with pytest.raises(DeltaviError, match=f"^query must be an AnnData, .* this is .*{words}"):
        require_anndata(value, name="query")


def test_an_anndata_is_handed_back() -> None:
    class Mine(AnnData):
        pass

    for adata in (anndata(), Mine(np.ones((2, 2))), anndata()[:1]):
        assert require_anndata(adata) is adata


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = [
        str(torch_device("device", d)) for d in ("cpu", "cuda", "cuda:1", "mps", 0, np.int64(3), torch.device("cpu"))
    ]
    assert found == ["cpu", "cuda", "cuda:1", "mps", "cuda:0", "cuda:3", "cpu"]
    assert str(torch_device("device", "auto")) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert str(torch_device("device", "auto")) == "cuda"
    for wrong in ("gpu", "", "meta", "xla", -1, 10**6, "cuda:1000", "cuda:-1", True, None, 1.5, ["cpu"], object()):
        with pytest.raises(DeltaviError, match=r"^device must be a device of torch, such as 'cpu'"):
            torch_device("device", wrong)


def test_hardware_as_scvi_tools_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pairs = {
        (None, None): "cpu",
        (None, "cuda:1"): "cuda:1",
        ("cpu", None): "cpu",
        ("cpu", "auto"): "cpu",
        ("cpu", 0): "cpu",
        ("auto", "auto"): "cuda",
        ("gpu", "auto"): "cuda",
        ("gpu", 1): "cuda:1",
        ("auto", "cuda:1"): "cuda:1",
    }
    assert {pair: str(chosen_device(*pair)) for pair in pairs} == pairs
    with pytest.raises(DeltaviError, match=r"^accelerator='cpu' and device='cuda:1' name different hardware"):
        chosen_device("cpu", "cuda:1")
    with pytest.raises(DeltaviError, match=r"^accelerator must be one of 'auto', .* Did you mean 'gpu'"):
        chosen_device("GPU", "auto")
    with pytest.raises(DeltaviError, match=r"^device must be a device of torch"):
        chosen_device("auto", "one")
