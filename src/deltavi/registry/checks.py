"""Full scan of an expression matrix, in row blocks, for any storage."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from deltavi._errors import InputDataError, InputDataWarning, examples
from deltavi._keys import UNASSIGNED
from deltavi._types import Rows, State, StoredMatrix
from deltavi.arrays.matrix import canonical_rows
from deltavi.registry.chunks import entries, rowwise, stretches

BLOCK_ROWS = 1024
# Nonzero entries moved at a time where a backed CSC matrix is walked through.
ENTRIES_PER_PASS = 2_000_000
# float32 holds every integer up to here; above it neighbouring counts become the same number.
FLOAT32_EXACT = 2.0**24
# Bytes of a number that sums over cells or genes can be taken in.
SMALLEST_ITEM = 4
# Values this near to a whole number differ from it by rounding, as after undoing a logarithm: the least, the share of
# large values, and the most; and what is left of a zero.
ROUNDING, ROUNDING_SHARE, LARGEST_ROUNDING, ROUNDED_ZERO = 1e-3, 1e-5, 0.1, 1e-6
# log1p of any plausible count of one gene in one cell stays below this.
MAX_PLAUSIBLE_LOG = 20.0
LOG_LIKELIHOOD = (
    "gene_likelihood='normal' needs log-normalised expression: run sc.pp.normalize_total and sc.pp.log1p first, or "
    "choose 'zinb' or 'nb'."
)
ANY_VALUES = (
    "If raw counts are in a layer, name it when the data are set up; a model made with check_input=False takes any "
    "values."
)
COUNT_LIKELIHOOD = (
    f"A count likelihood needs raw counts; gene_likelihood='normal' takes log-normalised expression. {ANY_VALUES}"
)
Kind = Literal["counts", "log-normalised values"]
# Text that names another place of the AnnData that holds a kind of values.
Offer = Callable[[Kind], str]


def nowhere_else(kind: Kind) -> str:
    """Return no text: other places that may hold the values are not known."""
    return ""


@dataclass(frozen=True)
class MatrixReport:
    """Result of a full scan of a matrix; numbers count entries unless their name has cells or genes."""

    n_cells: int
    n_genes: int
    n_nan: int = 0
    n_infinite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    n_rounding: int = 0
    n_nonzero: int = 0
    n_empty_cells: int = 0
    n_negative_cells: int = 0
    max_value: float = 0.0
    bad_cells: tuple[int, ...] = ()
    bad_genes: tuple[int, ...] = ()
    empty_cells: tuple[int, ...] = ()
    negative_cells: tuple[int, ...] = ()
    first_cell_totals: tuple[float, ...] = ()

    @property
    def are_counts(self) -> bool:
        """Non-negative whole numbers throughout; `n_rounding` of them are whole but for rounding."""
        return self.n_negative == 0 and self.n_fractional == 0

    @property
    def look_like_counts(self) -> bool:
        """Mostly whole numbers; logarithms of scaled counts are rarely whole."""
        return self.n_negative == 0 and 2 * self.n_fractional < self.n_nonzero

    @property
    def look_log_normalised(self) -> bool:
        """Fractional and small throughout, as log1p of a scaled matrix is."""
        return self.n_fractional > 0 and self.n_negative == 0 and self.max_value <= MAX_PLAUSIBLE_LOG

    @property
    def look_scaled(self) -> bool:
        """Fractional, with every cell summing to the same total."""
        totals = np.asarray([t for t in self.first_cell_totals if t > 0])
        return self.n_fractional > 0 and len(totals) > 1 and bool(np.ptp(totals) < 1e-3 * totals.mean())

    def as_dict(self) -> State:
        """Plain JSON-able form, for the registry."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, saved: State) -> MatrixReport:
        """Inverse of :meth:`as_dict`."""
        fields: State = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
        return cls(**fields)


def row_blocks(
    x: StoredMatrix, rows: np.ndarray | None = None, *, size: int = BLOCK_ROWS, where: str = "The matrix"
) -> Iterator[tuple[np.ndarray, Rows]]:
    """Blocks of `size` rows as ``(row numbers, dense array or CSR)``; only one block is in memory at a time."""
    x = rowwise(x)
    cut = stretches(x, where)
    rows = np.arange(x.shape[0]) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), size):
        taken = rows[start : start + size]
        contiguous = np.array_equal(taken, np.arange(taken[0], taken[0] + len(taken)))
        block = cut(int(taken[0]), len(taken)) if contiguous else x[np.sort(taken)]
        yield taken if contiguous else np.sort(taken), _as_block(block)


def wanted_blocks(x: StoredMatrix, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
    """Rows of `x` that a mask marks, as of :func:`row_blocks` but for the others of each block, which are left out.

    Other rows are read only where they lie between wanted ones in a file, of which single rows are slow.
    """
    x = rowwise(x)
    cut, in_memory = stretches(x), isinstance(x, np.ndarray) or sparse.issparse(x)
    for start in range(0, x.shape[0], BLOCK_ROWS):
        rows = start + np.flatnonzero(wanted[start : start + BLOCK_ROWS])
        if len(rows) == 0:
            continue
        first, length = int(rows[0]), int(rows[-1] - rows[0]) + 1
        if in_memory and length > len(rows):
            yield rows, _as_block(x[rows])
        else:
            block = _as_block(cut(first, length))
            yield rows, block if length == len(rows) else block[rows - first]


def _as_block(block: Rows) -> Rows:
    rows = canonical_rows(sparse.csr_matrix(block)) if sparse.issparse(block) else np.asarray(block)
    # SciPy reads the byte order of this computer alone
    rows = rows if rows.dtype.isnative else rows.astype(rows.dtype.newbyteorder("="))
    # sums of half precision, bool or small integers would overflow
    return rows.astype(np.float32) if rows.dtype.itemsize < SMALLEST_ITEM else rows


def stored_blocks(x: StoredMatrix, *, where: str = "The matrix") -> Iterator[tuple[np.ndarray, Rows]]:
    """Blocks of all rows as of :func:`row_blocks`, which cannot be written to where they share memory with `x`."""
    if not isinstance(x, sparse.csr_matrix) or x.data.dtype.itemsize < SMALLEST_ITEM or not x.dtype.isnative:
        yield from row_blocks(x, where=where)
        return
    for start in range(0, x.shape[0], BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, x.shape[0])
        first, last = x.indptr[start], x.indptr[stop]
        data, indices = x.data[first:last], x.indices[first:last]
        data.flags.writeable = indices.flags.writeable = False
        shape = (stop - start, x.shape[1])
        yield (
            np.arange(start, stop),
            sparse.csr_matrix((data, indices, x.indptr[start : stop + 1] - first), shape=shape, copy=False),
        )


def scan_matrix(x: StoredMatrix) -> MatrixReport:
    """Count everything that can be wrong with `x` ``(n_cells, n_genes)``, reading it once."""
    return scan_and_sum(x).report


@dataclass(frozen=True, eq=False)
class Scanned:
    """Report of a matrix, sum of absolute values of each cell and, where it was asked for, sum of each gene."""

    report: MatrixReport
    cell_totals: np.ndarray
    gene_sums: np.ndarray | None


def scan_and_sum(
    x: StoredMatrix, *, genes: bool = False, also: Callable[..., None] | None = None, where: str = "The matrix"
) -> Scanned:
    """Report of :func:`scan_matrix` with sums of cells and, with `genes`, of genes, in one pass; `also` sees blocks."""
    scan, of_genes = _Scan(), np.zeros(int(x.shape[1]))
    for numbers, block in stored_blocks(x, where=where):
        scan.read(numbers, block)
        if also is not None:
            also(numbers, block)
        if genes:
            of_genes += np.asarray(block.sum(0), dtype=np.float64).ravel()
    return Scanned(scan.report(x.shape), np.concatenate([np.zeros(0), *scan.totals]), of_genes if genes else None)


class _Scan:
    """Sums over the blocks of a matrix that were read."""

    def __init__(self) -> None:
        counted = ("n_nan", "n_infinite", "n_negative", "n_fractional", "n_rounding", "n_nonzero", "n_empty_cells")
        self.sums = dict.fromkeys(counted, 0)
        self.below: list[int] = []
        self.bad_cells: list[int] = []
        self.bad_genes: list[int] = []
        self.empty: list[int] = []
        self.totals: list[np.ndarray] = []
        self.maximum = 0.0

    def read(self, numbers: np.ndarray, block: Rows) -> None:
        """Add a block, whose rows have `numbers`."""
        values = block.data if sparse.issparse(block) else block
        values = np.asarray(values).reshape(-1)
        if are_plain_counts(values):
            self.sums["n_nonzero"] += int(np.count_nonzero(values))
            self.maximum = max(self.maximum, float(values.max(initial=0)))
            self._read_totals(numbers, block)
        else:
            self._read_values(numbers, block, values.astype(np.float64))
            self._read_totals(numbers, _sizes(block))

    def _read_values(self, numbers: np.ndarray, block: Rows, values: np.ndarray) -> None:
        sums = self.sums
        wrong = ~np.isfinite(values)
        if wrong.any():
            rows, columns, _ = entries(block)
            self.bad_cells.extend(numbers[rows[wrong]].tolist())
            self.bad_genes.extend(columns[wrong].tolist())
        negative = values < -ROUNDED_ZERO
        if negative.any():
            rows, _, _ = entries(block)
            self.below.extend(numbers[np.unique(rows[negative])].tolist())
        finite = values[~wrong]
        sums["n_nan"] += int(np.isnan(values).sum())
        sums["n_infinite"] += int(np.isinf(values).sum())
        sums["n_negative"] += int((finite < -ROUNDED_ZERO).sum())
        fractional = finite[finite != np.floor(finite)]
        n_rounding = int(differ_by_rounding(fractional).sum())
        sums["n_rounding"] += n_rounding
        sums["n_fractional"] += len(fractional) - n_rounding
        sums["n_nonzero"] += int((finite != 0).sum())
        self.maximum = max(self.maximum, float(finite.max(initial=0.0)))

    def _read_totals(self, numbers: np.ndarray, sizes: Rows) -> None:
        cell_totals = np.asarray(sizes.sum(1), dtype=np.float64).ravel()
        self.sums["n_empty_cells"] += int((cell_totals == 0).sum())
        self.empty.extend(numbers[cell_totals == 0][:3].tolist())
        self.totals.append(cell_totals)

    def report(self, shape: tuple[int, int]) -> MatrixReport:
        """Everything that was found in a matrix of this shape."""
        sums = self.sums
        if self.maximum < 0.5:
            # no value rounds to one: these are small numbers, not counts
            sums["n_fractional"], sums["n_rounding"] = sums["n_fractional"] + sums["n_rounding"], 0
        return MatrixReport(
            n_cells=int(shape[0]),
            n_genes=int(shape[1]),
            max_value=self.maximum,
            bad_cells=tuple(dict.fromkeys(self.bad_cells)),
            bad_genes=tuple(dict.fromkeys(self.bad_genes)),
            empty_cells=tuple(self.empty[:3]),
            n_negative_cells=len(self.below),
            negative_cells=tuple(self.below[:3]),
            first_cell_totals=tuple(total for block in self.totals for total in block[:3].tolist())[:100],
            **sums,
        )


def _sizes(block: Rows) -> Rows:
    """Absolute values; those that SciPy takes sort the indices of the matrix in place."""
    if isinstance(block, np.ndarray):
        return np.abs(block)
    return sparse.csr_matrix((np.abs(block.data), block.indices, block.indptr), shape=block.shape, copy=False)


def are_plain_counts(values: np.ndarray) -> bool:
    """True where all of `values` are finite whole numbers from zero on."""
    if not len(values):
        return True
    # NaN is not at least zero
    if not (values.min() >= 0 and np.isfinite(values.max())):
        return False
    return values.dtype.kind in "biu" or bool((values == np.floor(values)).all())


def differ_by_rounding(values: np.ndarray) -> np.ndarray:
    """Mask of `values` that are whole numbers but for rounding, as after inverting a logarithm."""
    whole = np.rint(values)
    distance = np.abs(values - whole)
    near = distance <= np.clip(ROUNDING_SHARE * np.abs(values), ROUNDING, LARGEST_ROUNDING)
    found: np.ndarray = np.where(whole == 0, distance <= ROUNDED_ZERO, near & (values > 0))
    return found


def require_finite(
    report: MatrixReport, *, where: str, cells: Sequence[str], genes: Sequence[str], layer: str | None = None
) -> None:
    """Raise where the matrix, in `layer` if that is given, holds NaN or infinite values, naming cells and genes."""
    if report.n_nan + report.n_infinite == 0:
        return
    arguments = "adata, counts=False" if layer is None else f"adata, layer={layer!r}, counts=False"
    raise InputDataError(
        f"{where} holds {report.n_nan} NaN and {report.n_infinite} infinite values in {len(report.bad_cells)} of "
        f"{report.n_cells} cells (for example {examples([cells[i] for i in report.bad_cells])}) and "
        f"{len(report.bad_genes)} genes (for example {examples([genes[i] for i in report.bad_genes])}). "
        f"Remove those cells, for example adata[deltavi.pp.valid_cells({arguments})], or repair the values."
    )


def _negative(report: MatrixReport, cells: Sequence[str]) -> str:
    """Text with the number of negative values and their `cells`; their rows if cells have no names."""
    named = examples([cells[i] for i in report.negative_cells] if len(cells) else report.negative_cells)
    return f"{report.n_negative} negative values in {report.n_negative_cells} cells (for example {named})"


def require_counts(
    report: MatrixReport,
    *,
    where: str,
    cells: Sequence[str] = (),
    needs: str = COUNT_LIKELIHOOD,
    offer: Offer = nowhere_else,
) -> None:
    """Raise if a matrix for a model of raw counts, see `needs`, holds other than non-negative whole numbers."""
    if report.are_counts:
        return
    if report.n_negative:
        reason = f"{_negative(report, cells)}; raw counts are needed, not scaled or centred data."
    elif report.look_scaled:
        reason = f"{report.n_fractional} fractional values and cells that sum to one total: counts scaled per cell."
    elif report.look_log_normalised:
        reason = f"{report.n_fractional} fractional values up to {report.max_value:.3g}: log-normalised, not counts."
    else:
        reason = f"{report.n_fractional} fractional values of {report.n_nonzero} that are not zero."
    found = offer("counts")
    if not found and not report.n_negative and not report.look_scaled:
        found = f" Round counts that were corrected for ambient RNA, {_rounding_line(where)}."
    raise InputDataError(f"{where} holds {reason}{found} {needs}")


def _rounding_line(where: str) -> str:
    matrix = where if where.startswith("adata.") else "adata.X"
    return f"{matrix} = np.rint({matrix})"


def require_log_normalised(
    report: MatrixReport,
    *,
    where: str,
    cells: Sequence[str] = (),
    needs: str = LOG_LIKELIHOOD,
    offer: Offer = nowhere_else,
) -> None:
    """Raise if a matrix for a Gaussian model, described by `needs`, holds counts or values too large for log counts."""
    if report.n_negative:
        reason = f"holds {_negative(report, cells)}, as scaled or centred data do and logarithms of counts do not"
    elif report.look_like_counts:
        whole = report.n_nonzero - report.n_fractional
        reason = f"looks like raw counts (values up to {report.max_value:.6g}, {whole} of {report.n_nonzero} whole)"
    elif report.max_value > MAX_PLAUSIBLE_LOG:
        scaled = "counts scaled per cell" if report.look_scaled else "raw counts, corrected or scaled,"
        reason = (
            f"looks like {scaled} before the logarithm that sc.pp.log1p takes (values up to {report.max_value:.6g})"
        )
    else:
        return
    raise InputDataError(
        f"{where} {reason}.{offer('log-normalised values')} {needs} check_input=False overrides the check."
    )


def require_detection(
    report: MatrixReport, *, where: str, cells: Sequence[str] = (), offer: Offer = nowhere_else
) -> None:
    """Raise if a matrix for a Bernoulli likelihood holds values outside of zero to one."""
    if report.n_negative == 0 and report.max_value <= 1:
        return
    negative = f"{_negative(report, cells)} and " if report.n_negative else ""
    raise InputDataError(
        f"{where} holds {negative}values up to {report.max_value:.6g}, but "
        "gene_likelihood='bernoulli' needs detection, 0 or 1: pass adata.X > 0 as numbers, or choose 'nb' for counts. "
        "check_input=False overrides the check."
    )


def scale_check(gene_likelihood: str) -> Callable[..., None]:
    """Check that raises if a matrix is not on the scale of a likelihood."""
    other: dict[str, Callable[..., None]] = {"normal": require_log_normalised, "bernoulli": require_detection}
    return other.get(gene_likelihood, require_counts)


def warn_unusual(report: MatrixReport, *, where: str, cells: Sequence[str]) -> None:
    """Warn, once each, of empty cells and of values beyond the exact integers of single precision."""
    if report.n_empty_cells:
        named = examples([cells[i] for i in report.empty_cells])
        message = (
            f"{where}: {report.n_empty_cells} cells have no counts at all (for example {named}). They carry no "
            f"information, and where labels are predicted they are {UNASSIGNED!r}; consider removing them."
        )
        warnings.warn(message, InputDataWarning, stacklevel=4)
    if report.max_value > FLOAT32_EXACT:
        message = f"{where} holds values up to {report.max_value:.3g}, above 2^24 where single precision loses counts."
        warnings.warn(message, InputDataWarning, stacklevel=4)
