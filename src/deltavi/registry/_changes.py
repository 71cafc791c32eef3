"""Errors that name what changed in a registered AnnData since it was set up, and the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import BaseAnnDataField

from deltavi._errors import DeltaviError, InputDataError, examples
from deltavi._types import State, StoredMatrix, Table
from deltavi.registry._fingerprint import MatrixPrint
from deltavi.registry.checks import MatrixReport, scan_matrix
from deltavi.registry.columns import codes_of, column, numbers
from deltavi.registry.covariates import ContinuousCovariatesField, SizeFactorField
from deltavi.registry.fields import CategoricalCovariatesField, CategoryField
from deltavi.registry.matrix import loadable

WAY_OUT = (
    "Undo this, and work on a copy (adata.copy()) where the model is to stay; or run setup_anndata again and train a "
    "new model."
)


# -- names ---------------------------------------------------------------------------------------------------


def same_names(now: pd.Index, before: pd.Index) -> bool:
    """True if names are the same in the same order; their type does not matter."""
    if now.is_(before) or now.equals(before):
        return True
    return len(now) == len(before) and bool((np.asarray(now.astype(str)) == np.asarray(before.astype(str))).all())


def require_same_genes(now: pd.Index, before: pd.Index) -> None:
    """Raise where genes went, came, or have other names or another order than when they were registered."""
    if not same_names(now, before):
        raise DeltaviError(
            f"The genes of adata changed after setup_anndata: {_difference(now, before, 'genes')}. sc.pp.filter_genes "
            f"and adata.var_names = ... work in place. {WAY_OUT}"
        )


def require_same_cells(now: pd.Index, before: pd.Index, *, what: str = "The cells of adata") -> None:
    """Raise where cells went, came, or have other names or another order than when they were registered."""
    if not same_names(now, before):
        raise DeltaviError(
            f"{what} changed after setup_anndata: {_difference(now, before, 'cells')}. sc.pp.filter_cells, "
            "sc.pp.subsample and adata.obs_names = ... work in place. A trained model takes the cells that are "
            f"there if they are passed as a query, adata=adata.copy(). {WAY_OUT}"
        )


def _difference(now: pd.Index, before: pd.Index, kind: str) -> str:
    new, old = now.astype(str), before.astype(str)
    gone, came = old[~old.isin(new)], new[~new.isin(old)]
    if len(gone) and len(came):
        return (
            f"{len(gone)} of {len(old)} {kind} are not there under their names (for example {examples(gone)}), and "
            f"{len(came)} others are (for example {examples(came)})"
        )
    if len(gone):
        return f"{len(gone)} of {len(old)} {kind} went away (for example {examples(gone)})"
    if len(came):
        return f"{len(came)} {kind} were added to {len(old)} (for example {examples(came)})"
    if len(new) != len(old):
        return f"there are {len(new)} {kind} in place of {len(old)}"
    moved = old[np.asarray(new) != np.asarray(old)]
    return f"{len(moved)} of {len(old)} {kind} lie in other places (for example {examples(moved)})"


# -- columns -------------------------------------------------------------------------------------------------


class Columns:
    """Contents of the registered columns of obs, and of the columns that registration wrote.

    Parameters
    ----------
    adata
        AnnData that was just registered.
    fields
        Its fields, each with the state it left in the registry.
    """

    def __init__(self, adata: AnnData, fields: Sequence[tuple[BaseAnnDataField, State]]) -> None:
        self._fields = fields
        # a query may lack some, and get them later
        self._held = {key: read() for key, read in self._readers(adata) if key in adata.obs}
        self._stored = {key: _stored(adata.obs[key]) for key in self._held}
        self._written = {place: np.array(_table(adata, place)) for place in written_by(fields)}

    def require_unedited(self, adata: AnnData) -> None:
        """Raise where a column went away or holds something else; its type may change."""
        for key, read in self._readers(adata):
            if key not in self._held:
                continue
            if key not in adata.obs:
                raise DeltaviError(
                    f"obs[{key!r}], registered for {adata.n_obs} cells (for example {examples(adata.obs_names)}), is "
                    "gone. Put it back, or run setup_anndata without it and train a new model."
                )
            if _is_stored(adata.obs[key], self._stored[key]):
                continue
            changed = read() != self._held[key]
            if changed.any():
                raise DeltaviError(
                    f"obs[{key!r}] was edited after setup_anndata: {int(changed.sum())} of {adata.n_obs} cells changed "
                    f"(for example {examples(adata.obs_names[changed])}). Undo the edit, keeping new values in a "
                    "column of their own, or run setup_anndata again and train a new model."
                )

    def require_written(self, adata: AnnData) -> None:
        """Raise where a column that registration wrote went away or holds something else."""
        for place, values in self._written.items():
            table, key = place
            gone = key not in getattr(adata, table)
            if gone or not np.array_equal(np.asarray(_table(adata, place)), values, equal_nan=True):
                raise DeltaviError(
                    f"{table}[{key!r}], which setup_anndata wrote for {adata.n_obs} cells, "
                    f"{'is gone' if gone else 'was edited'}. Run setup_anndata with the same arguments: it writes the "
                    "column again, and the model stays usable."
                )

    def _readers(self, adata: AnnData) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Columns that must stay unchanged, each with a reader of its numbers, ``(n_cells,)``."""
        for field, state in self._fields:
            for key in _read_by(field, state):
                yield key, partial(_numbers, field, adata, key, state)


def _read_by(field: BaseAnnDataField, state: State) -> list[str]:
    """Columns of the user that a field reads."""
    if isinstance(field, CategoryField):
        return [] if field.is_default else [state[field.ORIGINAL_ATTR_KEY]]
    if isinstance(field, CategoricalCovariatesField | ContinuousCovariatesField):
        return list(field.attr_keys)
    return [field.attr_key] if isinstance(field, SizeFactorField) else []


def _numbers(field: BaseAnnDataField, adata: AnnData, key: str, state: State) -> np.ndarray:
    """Codes of a column of categories; numbers of any other, in single precision, in which models read them."""
    if isinstance(field, CategoryField):
        return field.codes(column(adata, key), np.asarray(state[field.CATEGORICAL_MAPPING_KEY], dtype=object))
    if isinstance(field, CategoricalCovariatesField):
        return codes_of(column(adata, key), np.asarray(state[field.MAPPINGS_KEY][key]))
    return numbers(adata, key).astype(np.float32)


def _stored(values: pd.Series) -> tuple[pd.Index | None, np.ndarray] | None:
    """Categories and codes of a column, or its numbers; ``None`` for a column that is stored otherwise."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.categories, np.array(values.cat.codes)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf":
        return None, np.array(values)
    return None


def _is_stored(values: pd.Series, before: tuple[pd.Index | None, np.ndarray] | None) -> bool:
    """Compare a column with its former storage, which is faster than to compare categories."""
    now = _stored(values)
    if now is None or before is None or not np.array_equal(now[1], before[1]):
        return False
    return now[0] is before[0] or (now[0] is not None and before[0] is not None and now[0].equals(before[0]))


def written_by(fields: Sequence[tuple[BaseAnnDataField, State]]) -> list[tuple[str, str]]:
    """Table and key of each column that registration writes."""
    kinds = CategoryField | CategoricalCovariatesField | ContinuousCovariatesField
    return [(field.attr_name, field.attr_key) for field, _ in fields if isinstance(field, kinds)]


def _table(adata: AnnData, place: tuple[str, str]) -> Table:
    name, key = place
    found: Table = getattr(adata, name)[key]
    return found


# -- values --------------------------------------------------------------------------------------------------


def changed_matrix(
    adata: AnnData, x: StoredMatrix, *, where: str, registered: MatrixPrint, report: MatrixReport
) -> Exception:
    """Build the error for a matrix that changed since it was registered; it is read in full to describe it.

    Parameters
    ----------
    adata
        The registered AnnData.
    x
        Its matrix.
    where
        Name of the matrix in messages.
    registered
        Fingerprint of the registered matrix.
    report
        Scan of the registered matrix.
    """
    now = scan_matrix(loadable(x, where=where, quiet=True))
    if now.n_nan + now.n_infinite:
        return InputDataError(
            f"{where} changed after setup_anndata: it holds {now.n_nan} NaN and {now.n_infinite} infinite values in "
            f"{len(now.bad_cells)} of {now.n_cells} cells (for example "
            f"{examples(adata.obs_names[list(now.bad_cells)])}) and {len(now.bad_genes)} of {now.n_genes} genes (for "
            f"example {examples(adata.var_names[list(now.bad_genes)])}). Put the values back, or remove those cells, "
            "set it up again and train a new model."
        )
    changed = np.flatnonzero(registered.differs(x))
    cells = changed if registered.rows is None else registered.rows[changed]
    n_compared = len(registered.sums)
    among = (
        f"{n_compared} of {now.n_cells} cells that were compared" if n_compared < now.n_cells else f"{n_compared} cells"
    )
    values = f"values of {len(cells)} of {among} changed (for example {examples(adata.obs_names[cells])})"
    if registered.is_reordered(x):
        values = f"its rows are those of other cells: {values}"
    return DeltaviError(f"{where} {_look(report, now)}: {values}. {_held_by(adata, where, registered)}{WAY_OUT}")


def _look(before: MatrixReport, now: MatrixReport) -> str:
    """Describe the scale of the matrix now, if it differs from that of the registered one."""
    since = "since setup_anndata"
    was = "counts" if before.are_counts else "the values registered"
    if now.n_negative and not before.n_negative:
        return f"no longer holds {was}: it looks centred or scaled {since} (sc.pp.scale works in place)"
    if before.are_counts and now.look_scaled:
        return f"no longer holds counts: it looks scaled to one total {since} (sc.pp.normalize_total works in place)"
    if before.are_counts and now.look_log_normalised:
        return f"no longer holds counts: it looks log-normalised {since} (sc.pp.log1p works in place)"
    if before.are_counts and not now.are_counts:
        return f"no longer holds counts: {now.n_fractional} values are fractional {since}"
    if now.look_like_counts and not before.look_like_counts:
        return f"no longer holds the values registered: it looks like counts {since}"
    return "changed after setup_anndata"


def _held_by(adata: AnnData, where: str, registered: MatrixPrint) -> str:
    """Name a layer or raw that still holds the registered values, with the line that restores them."""
    places = {"adata.X": adata.X} | {f"adata.layers[{key!r}]": x for key, x in adata.layers.items() if key is not None}
    raw = getattr(adata, "raw", None)
    if raw is not None and raw.shape == adata.shape:
        places["adata.raw.X"] = raw.X
    for name, x in places.items():
        if name != where and x is not None and not registered.differs(x).any():
            return f"{name} holds what was registered: {where} = {name}.copy(). "
    return ""


@contextmanager
def reading(where: str, adata: AnnData) -> Iterator[None]:
    """Turn errors of the block into one that the matrix, or its file, cannot be read."""
    try:
        yield
    except DeltaviError:
        raise
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        file = adata.filename
        place = "" if file is None else f" adata is backed by {file}: put that file back, and read it again."
        raise DeltaviError(
            f"{where}, registered for {adata.n_obs} cells and {adata.n_vars} genes, cannot be read "
            f"({type(error).__name__}: {error}).{place} {WAY_OUT}"
        ) from error
