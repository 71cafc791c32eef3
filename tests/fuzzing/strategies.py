"""AnnData that nobody would make on purpose, and that come all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from hypothesis import strategies as st
from scipy import sparse

N_GENES = 12
GENES = [f"gene_{i}" for i in range(1, N_GENES + 1)]
KEYS = ("condition", "cell_type", "batch", "total_counts")

FORMATS = ("C", "F", "csr", "csc", "csr_array", "csc_array", "view")
DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint64", "bool", "object")
# what a matrix may hold beside counts
SPOILS = (None, None, None, np.nan, np.inf, -np.inf, -1.0, 0.5, 1e12, 1e300, "all zero", "an empty cell")
TEXTS = (
    "A",
    "B",
    "a",
    " A",
    "A ",
    "",
    " ",
    "nan",
    "None",
    "-1",
    "unknown",
    "Unknown",
    "unassigned",
    "A|B",
    "|",
    "µ",
    "Ω\u0301",
)
RESERVED = ("_scvi_batch", "_scvi_labels", "_index", "deltavi_source_cell", "index", "predicted")


@dataclass(frozen=True)
class Made:
    """What is told of an AnnData before it is one; the same story can be stored in several ways."""

    n_cells: int
    genes: tuple[str, ...]
    counts: np.ndarray
    dtype: str
    stored: str
    columns: dict[str, Any]
    cell_names: tuple[str, ...]
    extra: str | None

    def adata(self, stored: str | None = None) -> AnnData:
        """The AnnData, with the matrix in its own format or in another one."""
        obs = pd.DataFrame({key: pd.Series(values) for key, values in self.columns.items()})
        obs.index = pd.Index(self.cell_names, dtype=object)
        if self.extra is not None:
            obs[self.extra] = np.arange(self.n_cells)
        var = pd.DataFrame(index=pd.Index(self.genes, dtype=object))
        stored = stored or self.stored
        x = _stored(self.counts.astype(self.dtype), "C" if stored == "view" else stored)
        adata = AnnData(X=x, obs=obs, var=var)
        return adata[np.arange(self.n_cells)] if stored == "view" else adata

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats that can hold these values."""
        # SciPy has neither sparse objects nor sparse half precision
        return FORMATS if self.dtype not in ("float16", "object") else ("C", "F", "view")


def _stored(x: np.ndarray, stored: str) -> Any:
    if stored in ("C", "F"):
        return np.array(x, order=stored)  # type: ignore[call-overload]
    return getattr(sparse, stored if stored.endswith("array") else f"{stored}_matrix")(x)


@st.composite
def columns(draw: st.DrawFn, n: int) -> Any:
    """A column of obs of `n` cells, of any kind."""
    kind = draw(
        st.sampled_from(
            [
                *(
                    "text",
                    "text",
                    "text",
                    "categorical",
                    "unused",
                    "ordered",
                    "some missing",
                    "nullable text",
                    "text type",
                ),
                *("whole", "nullable whole", "bool", "nullable bool", "float", "mixed", "all missing", "constant"),
                *("dates", "periods", "intervals", "lists", "bytes", "tuples", "complex", "categories of floats"),
            ]
        )
    )
    # values are drawn by a seed, which takes a tenth of the time; what matters is the kind
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    words = sorted(draw(st.sets(st.sampled_from(TEXTS), min_size=1, max_size=4)))
    texts = [words[i] for i in rng.integers(len(words), size=n)]
    whole, missing = rng.integers(-1, 3, n), rng.random(n) < 0.3
    made: dict[str, Any] = {
        "text": lambda: np.asarray(texts, dtype=object),
        "categorical": lambda: pd.Categorical(texts),
        "unused": lambda: pd.Categorical(texts, categories=["never", *sorted(set(texts), reverse=True)]),
        "ordered": lambda: pd.Categorical(texts, categories=sorted(set(texts)), ordered=True),
        "some missing": lambda: pd.Categorical(np.where(missing, None, np.asarray(texts, dtype=object))),
        "nullable text": lambda: np.where(missing, None, np.asarray(texts, dtype=object)),
        "text type": lambda: pd.array(texts, dtype="string"),
        "whole": lambda: whole,
        "nullable whole": lambda: pd.array(np.where(missing, None, whole.astype(object)), dtype="Int64"),
        "bool": lambda: missing,
        "nullable bool": lambda: pd.array(np.where(whole < 0, None, missing.astype(object)), dtype="boolean"),
        "float": lambda: np.where(missing, np.nan, whole / 2),
        "mixed": lambda: np.asarray(
            [t if m else int(w) for t, m, w in zip(texts, missing, whole, strict=True)], object
        ),
        "all missing": lambda: np.full(n, np.nan, dtype=object),
        "constant": lambda: np.full(n, "A", dtype=object),
        "dates": lambda: pd.to_datetime(whole, unit="D"),
        "periods": lambda: pd.PeriodIndex(pd.to_datetime(whole, unit="D"), freq="D"),
        "intervals": lambda: pd.cut(whole, [-2, 0, 3]),
        "lists": lambda: pd.Series([[int(w)] for w in whole], dtype=object).to_numpy(),
        "bytes": lambda: np.asarray([t.encode() for t in texts], dtype=object),
        "tuples": lambda: pd.Series([(int(w), 1) for w in whole], dtype=object).to_numpy(),
        "complex": lambda: whole + 1j,
        "categories of floats": lambda: pd.Categorical(whole / 2),
    }
    return made[kind]()


@st.composite
def stories(draw: st.DrawFn, *, sane: bool = False) -> Made:
    """Any AnnData, or with `sane` one whose columns a model can read and whose matrix is small counts."""
    n = draw(st.sampled_from([0, 1, 2, 3, 8, 8, 20, 20, 40]) if not sane else st.integers(8, 40))
    names = draw(
        st.one_of(
            st.just(GENES),
            st.integers(1, 30).map(lambda k: [f"gene_{i}" for i in range(1, k + 1)]),
            st.permutations(GENES),
            st.lists(st.sampled_from([*GENES, "ENSG00000000001", "GENE_1", "", "µ"]), min_size=1, max_size=30),
        )
        if not sane
        else st.just(GENES)
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    counts = rng.poisson(1.5, (n, len(names))).astype(np.float64)
    dtype = draw(st.sampled_from(DTYPES))
    spoil = None if sane else draw(st.sampled_from(SPOILS))
    if counts.size and spoil is not None:
        _spoil(counts, spoil, rng)
    with np.errstate(all="ignore"):
        # what the type cannot hold becomes what the type makes of it, before any format is chosen
        counts = counts if dtype == "object" else _cast(counts, dtype)
    groups = {key: np.asarray([f"{key}_{i % 2}" for i in range(n)], dtype=object) for key in KEYS[:3]}
    groups["total_counts"] = np.arange(n) + 20.0
    if not sane:
        for key in draw(st.sets(st.sampled_from(KEYS), max_size=2)):
            groups[key] = draw(columns(n))
        for key in draw(st.sets(st.sampled_from(KEYS), max_size=1)):
            del groups[key]
    cell_names = [f"cell_{i}" for i in range(n)]
    if n > 1 and not sane and draw(st.booleans()):
        cell_names[1] = cell_names[0]
    extra = None if sane else draw(st.sampled_from([None, None, None, *RESERVED]))
    made = Made(n, tuple(names), counts, dtype, "C", groups, tuple(cell_names), extra)
    stored = draw(st.sampled_from(made.formats))
    return Made(n, tuple(names), counts, dtype, stored, groups, tuple(cell_names), extra)


def _cast(counts: np.ndarray, dtype: str) -> np.ndarray:
    if np.dtype(dtype).kind in "iub":
        counts = np.nan_to_num(counts, nan=0, posinf=9, neginf=0)
        if np.dtype(dtype).kind != "b":
            bounds = np.iinfo(dtype)
            counts = np.clip(counts, float(bounds.min) / 2, float(bounds.max) / 2)
    return counts.astype(dtype)


def _spoil(counts: np.ndarray, spoil: Any, rng: np.random.Generator) -> None:
    if spoil == "all zero":
        counts[:] = 0
    elif spoil == "an empty cell":
        counts[0] = 0
    else:
        counts[rng.integers(len(counts)), rng.integers(counts.shape[1])] = spoil
