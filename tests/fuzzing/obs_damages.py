"""Damages to the obs of an h5ad file, each of which a seed repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import h5py
import numpy as np
import pandas as pd

N_CELLS, N_GENES = 24, 8
KEYS = {"condition_key": "condition", "labels_key": "label", "batch_key": "batch", "size_factor_key": "size"}
CATEGORICAL, NULLABLE, PLAIN = ("condition", "label"), ("batch", "number"), ("size", "text")
Damage = Callable[[h5py.Group, np.random.Generator], None]


def clean_obs() -> pd.DataFrame:
    """Columns of every kind, four of which models read."""
    rows = np.arange(N_CELLS)
    return pd.DataFrame(
        {
            "condition": pd.Categorical(np.where(rows % 2, "treated", "control")),
            "label": pd.Categorical(np.asarray(["A", "B", "none"], dtype=object)[rows % 3]),
            "batch": pd.array(["first" if row < 12 else "second" for row in rows], dtype="string"),
            "number": pd.array([None, *rows[1:].tolist()], dtype="Int64"),
            "size": rows + 20.0,
            "text": np.asarray([f"cell {row}" for row in rows], dtype=object),
        },
        index=pd.Index([f"c{row}" for row in rows], dtype=object),
    )


def _replaced(group: h5py.Group, name: str, values: Any) -> None:
    """Another array in the place of `name`, which keeps its attributes."""
    attributes = dict(group[name].attrs)
    del group[name]
    group.create_dataset(name, data=values)
    group[name].attrs.update(attributes)


def _one(names: Iterable[str], rng: np.random.Generator) -> str:
    return str(rng.choice(list(names)))


def codes(obs: h5py.Group, rng: np.random.Generator) -> None:
    """Some codes are others, many of them out of range."""
    group = obs[_one(CATEGORICAL, rng)]
    values = group["codes"][:].astype(np.int64)
    rows = rng.integers(0, N_CELLS, rng.integers(1, 6))
    values[rows] = rng.choice([-1, 0, 1, 2, 3, 5, 127, -2, -128, 2**31], len(rows))
    _replaced(group, "codes", values)


def code_types(obs: h5py.Group, rng: np.random.Generator) -> None:
    kind = rng.choice(["float64", "uint8", "int64", "bool", "S4", "float16", "uint64", "complex128"])
    group = obs[_one(CATEGORICAL, rng)]
    _replaced(group, "codes", group["codes"][:].astype(str(kind)))


def categories(obs: h5py.Group, rng: np.random.Generator) -> None:
    """Categories that repeat, are empty, bytes, numbers, too few or too many."""
    group = obs[_one(CATEGORICAL, rng)]
    known = [name.decode() for name in group["categories"][:]]
    ways: list[Any] = [
        [known[0]] * len(known),
        known[:1],
        [*known, "further", ""],
        ["", *known[1:]],
        np.arange(len(known)),
        np.linspace(0, np.nan, len(known)),
        np.linspace(0.5, 1.5, len(known)),
        np.zeros(len(known), dtype=bool),
        np.asarray([b"\xff\xfe", *(name.encode() for name in known[1:])], dtype="S4"),
        [f"{known[0]}\0{known[-1]}"[: 1 + int(rng.integers(5))] or "x", *known[1:]],
        known[::-1],
        [known[0].upper(), *known[1:]],
        [f" {known[0]}", *known[1:]],
        ["nan", *known[1:]],
        ["unassigned", *known[1:]],
        ["component 1", *known[1:]],
        [],
        known[0],
    ]
    way = ways[rng.integers(len(ways))]
    as_text = isinstance(way, str) or (isinstance(way, list) and all(isinstance(value, str) for value in way))
    values = np.asarray(way, dtype=object) if as_text and not isinstance(way, str) else way
    try:
        _replaced(group, "categories", values if not isinstance(values, np.ndarray) or len(values) else np.zeros(0))
    except ValueError:  # text that HDF5 does not store: a NUL
        group["categories"] = np.asarray([b"a\0b", b"c", b"d"][: len(known)], dtype="S3")


def masks(obs: h5py.Group, rng: np.random.Generator) -> None:
    """Masks of nullable columns: values go missing, or the shape or type is another."""
    group = obs[_one(NULLABLE, rng)]
    ways: list[Any] = [
        rng.random(N_CELLS) < 0.2,
        np.ones(N_CELLS, dtype=bool),
        np.zeros(N_CELLS - 3, dtype=bool),
        np.zeros((N_CELLS, 2), dtype=bool),
        np.zeros(N_CELLS, dtype=np.int8),
        np.zeros(N_CELLS),
        np.bool_(True),
        np.zeros(0, dtype=bool),
    ]
    _replaced(group, "mask", ways[rng.integers(len(ways))])


def attributes(obs: h5py.Group, rng: np.random.Generator) -> None:
    """What the file says about the encoding is wrong, or gone."""
    name = _one([*CATEGORICAL, *NULLABLE, *PLAIN, "label/codes", "label/categories", "batch/values", "_index", ""], rng)
    target = obs[name] if name else obs
    key = _one(["encoding-type", "encoding-version", "ordered", "na-value", "column-order", "_index"], rng)
    if rng.random() < 0.3:
        target.attrs.pop(key, None)
        return
    kinds = ["categorical", "array", "string-array", "nullable-integer", "nullable-boolean", "nullable-string-array"]
    kinds += [
        "dataframe",
        "dict",
        "null",
        "string",
        "numeric-scalar",
        "csr_matrix",
        "9.9.9",
        "0.2.0",
        "",
        "awkward-array",
    ]
    values: list[Any] = [*kinds, True, False, 3, np.asarray(["a", "b"], dtype=object), np.zeros(0), "NaN", "NA"]
    target.attrs[key] = values[rng.integers(len(values))]


def lengths(obs: h5py.Group, rng: np.random.Generator) -> None:
    name = _one([*PLAIN, "_index", "label/codes", "condition/codes", "batch/values", "number/values"], rng)
    parent, _, leaf = name.rpartition("/")
    group = obs[parent] if parent else obs
    values = group[leaf][:]
    wanted = [values[:0], values[:-1], np.concatenate([values, values[:1]]), values[0], values[:, None], values[:1]]
    _replaced(group, leaf, wanted[rng.integers(len(wanted))])


def texts(obs: h5py.Group, rng: np.random.Generator) -> None:
    """Bytes that are no text, of fixed length, in the place of text."""
    name = _one(["text", "_index", "label/categories", "batch/values"], rng)
    parent, _, leaf = name.rpartition("/")
    group = obs[parent] if parent else obs
    values = [value if isinstance(value, bytes) else str(value).encode() for value in group[leaf][:]]
    for row in rng.integers(0, len(values), 2):
        values[row] = [b"\xff\xfe", b"\xc3\x28", b"a\0b", b"", b"\xed\xa0\x80", b"x" * 5000][rng.integers(6)]
    _replaced(group, leaf, np.asarray(values, dtype=f"S{max(map(len, values)) or 1}"))


def kinds(obs: h5py.Group, rng: np.random.Generator) -> None:
    """Something else in the place of a column."""
    name = _one([*CATEGORICAL, *NULLABLE, *PLAIN], rng)
    del obs[name]
    ways: list[Any] = [
        rng.integers(-1, 3, N_CELLS),
        rng.random(N_CELLS) * rng.choice([1, 1e300, -1, np.nan, np.inf]),
        rng.random(N_CELLS) < 0.5,
        rng.random((N_CELLS, 2)),
        np.zeros(N_CELLS, dtype=[("a", "i4"), ("b", "f8")]),
        rng.random(N_CELLS) + 1j,
        np.asarray([b"A", b"B", b"none"] * (N_CELLS // 3)),
        np.float64(3.5),
        np.asarray(["A", "B", "1", "1.0"] * (N_CELLS // 4), dtype=object),
        rng.random(N_CELLS).astype(np.float16),
        np.full(N_CELLS, np.iinfo(np.uint64).max, dtype=np.uint64),
    ]
    obs.create_dataset(name, data=ways[rng.integers(len(ways))])
    if rng.random() < 0.7:
        obs[name].attrs.update({"encoding-type": _one(["array", "string-array"], rng), "encoding-version": "0.2.0"})


def missing(obs: h5py.Group, rng: np.random.Generator) -> None:
    """Parts that are gone, or columns that are named and are not there."""
    name = _one([*CATEGORICAL, *NULLABLE, *PLAIN, "_index", "label/codes", "label/categories", "batch/mask"], rng)
    del obs[name]
    if rng.random() < 0.5:
        obs.attrs["column-order"] = np.asarray([key for key in obs if key != "_index"], dtype=object)


def orders(obs: h5py.Group, rng: np.random.Generator) -> None:
    """Order of columns: shuffled, with repeats, or with names that are none."""
    names = [str(name) for name in rng.permutation(list(clean_obs()))]
    ways = [names, names[:3], [*names, names[0]], [*names, "nothing"], [*names, "_index"], [*names, "label/codes"], []]
    obs.attrs["column-order"] = np.asarray(ways[rng.integers(len(ways))], dtype=h5py.string_dtype())


def nested(obs: h5py.Group, rng: np.random.Generator) -> None:
    """A group in the place of a column, or a column within a column."""
    name = _one([*CATEGORICAL, *NULLABLE, *PLAIN], rng)
    if rng.random() < 0.5:
        del obs[name]
        group = obs.create_group(name)
        group["codes"] = np.zeros(N_CELLS, dtype=np.int8)
        group.attrs.update(
            {"encoding-type": _one(["dict", "categorical", "dataframe"], rng), "encoding-version": "0.1.0"}
        )
    else:
        other = _one([key for key in ("label", "batch") if key != name], rng)
        obs.copy(obs[name], obs[other], name="codes" if "codes" not in obs[other] else "deeper")


def huge(obs: h5py.Group, rng: np.random.Generator) -> None:
    """A shape that no memory holds, without a byte behind it."""
    name = _one([*PLAIN, "label/codes", "number/values", "batch/mask"], rng)
    parent, _, leaf = name.rpartition("/")
    group = obs[parent] if parent else obs
    attributes = dict(group[leaf].attrs)
    del group[leaf]
    group.create_dataset(leaf, shape=(2 ** int(rng.integers(46, 60)),), dtype="i1")
    group[leaf].attrs.update(attributes)


def in_memory(obs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Values of a table that was read well."""
    key, rows = _one(KEYS.values(), rng), rng.integers(0, N_CELLS, 3)
    values = obs[key].astype(object).to_numpy(copy=True)
    odd: list[Any] = [
        None,
        np.nan,
        pd.NA,
        pd.NaT,
        "",
        " ",
        "A|B",
        b"A",
        1,
        1.0,
        True,
        1e300,
        -1,
        "unassigned",
        (1, 2),
        [1],
        {},
    ]
    odd += [
        2**70,
        1j,
        object(),
        np.float32(1),
        np.str_("A"),
        pd.Timestamp("2020"),
        frozenset("a"),
        "\0",
        "\ud800",
        "a" * 9999,
    ]
    for row in rows:
        values[row] = odd[rng.integers(len(odd))]
    return obs.assign(**{key: values})


KINDS: dict[str, Damage] = {
    damage.__name__: damage
    for damage in [
        codes,
        code_types,
        categories,
        masks,
        attributes,
        lengths,
        texts,
        kinds,
        missing,
        orders,
        nested,
        huge,
    ]
}
IN_MEMORY = "in_memory"
ALL_KINDS = (*KINDS, IN_MEMORY)
