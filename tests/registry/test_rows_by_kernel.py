"""Mini-batches cut by a kernel: those that SciPy cuts, whatever the matrix holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy import sparse

from deltavi import _keys
from deltavi.kernels import compiled, kernels
from deltavi.registry._resident_rows import ResidentRows

pytestmark = pytest.mark.skipif(kernels("rows") is None, reason="kernels cannot be compiled here")


def counts(seed: int = 0, shape: tuple[int, int] = (50, 30), share: float = 0.2) -> sparse.csr_matrix:
    generator = np.random.default_rng(seed)
    drawn = generator.poisson(3, shape) * (generator.random(shape) < share)
    return sparse.csr_matrix(drawn.astype(np.float32))


def holding(*values: float) -> sparse.csr_matrix:
    """Counts of which the first stored ones are replaced."""
    matrix = counts()
    matrix.data[: len(values)] = values
    return matrix


def wide(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def emptied(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    keep = np.ones(matrix.shape[0])
    keep[[0, 3, 4, 49]] = 0
    return sparse.csr_matrix(sparse.diags(keep) @ matrix, dtype=np.float32)


def twice() -> sparse.csr_matrix:
    """Entries that are stored in two parts."""
    matrix = counts()
    rows = np.repeat(np.arange(50), np.diff(matrix.indptr))
    both = np.concatenate([matrix.data, matrix.data])
    return sparse.csr_matrix((both, (np.tile(rows, 2), np.tile(matrix.indices, 2))), shape=matrix.shape)


def unsorted() -> sparse.csr_matrix:
    matrix = counts()
    for first, last in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        matrix.indices[first:last] = matrix.indices[first:last][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


MATRICES: dict[str, Any] = {
    "counts": counts,
    "int64 indices": lambda: wide(counts()),
    "float64": lambda: counts().astype(np.float64),
    "int32": lambda: counts().astype(np.int32),
    "fractions": lambda: holding(0.5, 1e-9, 3.25),
    "not counts": lambda: holding(-1.0, np.nan, np.inf, -np.inf, -0.0),
    "stored zeros": lambda: holding(0.0, 0.0),
    "large": lambda: holding(2.0**24 + 2, 1e30),
    "empty rows": lambda: emptied(counts()),
    "no entry": lambda: counts(share=0.0),
    "one gene": lambda: counts(shape=(50, 1)),
    "dense": lambda: counts(share=1.0),
    "stored twice": twice,
    "unsorted": unsorted,
}
ROWS = {
    "some": np.array([4, 3, 49, 3, 0]),
    "all": np.arange(50),
    "one": np.array([7]),
    "none": np.zeros(0, dtype=int),
    "int32": np.array([1, 2], dtype=np.int32),
    "from the end": np.array([-1, 2]),
}  # fmt: skip


def cut(matrix: Any, rows: np.ndarray, *, often: bool) -> dict[str, np.ndarray]:
    found = ResidentRows(matrix)
    if often:
        found.use_kernels()
    return found.with_counts(rows)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        np.testing.assert_array_equal(np.signbit(found[name]), np.signbit(values), err_msg=name)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_rows_are_those_of_scipy(matrix: str, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cut(MATRICES[matrix](), ROWS[rows], often=False)
    if rows != "from the end":
        monkeypatch.setattr(ResidentRows, "_cut_by_scipy", lambda *_: pytest.fail("no kernel was used"))
    assert_same(cut(MATRICES[matrix](), ROWS[rows], often=True), expected)


def read_only() -> sparse.csr_matrix:
    matrix = counts()
    for values in (matrix.data, matrix.indices, matrix.indptr):
        values.flags.writeable = False
    return matrix


def other_bytes() -> sparse.csr_matrix:
    matrix = counts()
    matrix.indices = matrix.indices.astype(matrix.indices.dtype.newbyteorder())
    return matrix


@pytest.mark.parametrize("matrix", [read_only, other_bytes])
def test_other_matrices_are_left_to_scipy(matrix: Any) -> None:
    rows = ROWS["some"]
    found = ResidentRows(matrix())
    found.use_kernels()
    assert not found.by_kernels
    assert_same(found.with_counts(rows), cut(counts(), rows, often=False))


def test_without_kernels_scipy_cuts() -> None:
    with compiled(False):
        found = cut(counts(), ROWS["some"], often=True)
    assert_same(found, cut(counts(), ROWS["some"], often=False))


def test_a_row_beyond_the_last_is_an_error() -> None:
    with pytest.raises(IndexError):
        cut(counts(), np.array([1, 50]), often=True)


def test_cells_of_a_file(kang_path: Path) -> None:
    matrix = anndata.read_h5ad(kang_path).X[:3000]
    rows = np.random.default_rng(0).permutation(3000)[:128]
    found, expected = cut(matrix, rows, often=True), cut(matrix, rows, often=False)
    assert len(expected[_keys.NONZERO_COUNT]) > 10_000
    assert_same(found, expected)
