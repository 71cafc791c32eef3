"""Tables that carry names: matched by name or refused, never read by position against other names.

An AnnData has names of cells and genes, a DataFrame of rows and columns, a Series of entries. Arrays and lists have
no names: they are read by position, and only beside tables that all have one order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike

from deltavi._errors import GeneMatchError, examples, nearest
from deltavi._types import Rows
from deltavi.arrays.matrix import Matrix, as_matrix, check_same_genes
from deltavi.arrays.scale import require_one_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Aligned:
    """Matrices over the same genes.

    Attributes
    ----------
    matrices
        (n_cells, n_genes) each, CSR or dense and finite, in the order in which they were given.
    genes
        Names of the genes in the order of the matrices; None if no table has names.
    one_order
        True if all tables were given in that order, so that positions are unambiguous.
    """

    matrices: tuple[Rows, ...]
    genes: pd.Index | None
    one_order: bool = True

    def __getitem__(self, i: int) -> Rows:
        return self.matrices[i]

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.matrices[0].shape[1])

    def require_one_order(self, what: str) -> None:
        """Raise GeneMatchError if positions of genes are ambiguous.

        Parameters
        ----------
        what
            Clause that begins the message: the object with positions, and its verb.
        """
        if not self.one_order:
            raise GeneMatchError(
                f"{what} by position, but the tables have their genes in different orders. Bring all to one order, "
                "such as table[genes] of a DataFrame or adata[:, genes], or use names."
            )


def align(tables: Mapping[str, Matrix], *, further: bool = False) -> Aligned:
    """Bring expression to one order of genes, that of the first table which names them.

    Parameters
    ----------
    tables
        AnnData (X is read), DataFrame, array or sparse matrix, (n_cells, n_genes), by the name in messages.
    further
        True if tables may hold more genes than the first of them; these are left out.

    Raises
    ------
    GeneMatchError
        Tables name other genes, or one of them twice; numbers of genes differ; or an array stands beside tables of
        different orders.
    InputDataError
        A matrix is empty, not numeric or not finite, or raw counts stand beside logarithms.
    """
    matrices = {name: as_matrix(table, name) for name, table in tables.items()}
    names = {name: genes for name, table in tables.items() if (genes := gene_names(table, name)) is not None}
    if len(names) < len(matrices):
        check_same_genes(matrices)
    first = next(iter(names), None)
    one_order = first is None or all(genes.equals(names[first]) for genes in names.values())
    found = Aligned((), None if first is None else names[first], one_order)
    if len(names) < len(matrices):
        unnamed = [name for name in matrices if name not in names]
        found.require_one_order(f"{' and '.join(unnamed)} hold{'s' * (len(unnamed) == 1)} genes")
    if first is not None and not one_order:
        for name, genes in names.items():
            order = places(genes, names[first], of=name, beside=first, further=further)
            matrices[name] = matrices[name][:, order]
    require_one_scale(matrices)
    return Aligned(tuple(matrices.values()), found.genes, one_order)


def gene_names(table: object, name: str) -> pd.Index | None:
    """Names of the genes of a table as text; None of an array.

    Raises
    ------
    GeneMatchError
        A name occurs more than once.
    """
    if isinstance(table, AnnData):
        return unique_genes(table.var_names, name, "var_names_make_unique() on a copy")
    if isinstance(table, pd.DataFrame):
        return unique_genes(table.columns, name, "a renaming of the columns")
    return None


def cell_names(table: object) -> pd.Index | None:
    """Names of the cells of a table as text; None of an array."""
    if isinstance(table, AnnData):
        return text_names(table.obs_names)
    return text_names(table.index) if isinstance(table, pd.DataFrame | pd.Series) else None


def text_names(index: pd.Index) -> pd.Index:
    """Names of any type as text."""
    return pd.Index([str(name) for name in index], dtype=object)


def are_counted(names: pd.Index) -> bool:
    """True if names are the numbers from 0 that pandas and anndata give to rows without a name."""
    return bool(np.array_equal(names.to_numpy(dtype=object), np.arange(len(names)).astype(str).astype(object)))


def unique_genes(names: pd.Index, name: str, way_out: str) -> pd.Index:
    text = text_names(names)
    repeated = text[text.duplicated()].unique()
    if len(repeated):
        raise GeneMatchError(
            f"{name} has {len(repeated)} gene names that occur more than once ({examples(repeated)}). Make them unique "
            f"by {way_out}."
        )
    return text


def places(
    given: pd.Index, wanted: pd.Index, *, of: str, beside: str, further: bool = False, what: str = "genes"
) -> NDArray[np.intp]:
    """Positions of the genes `wanted` among those `given`, (n_wanted,).

    Parameters
    ----------
    given, wanted
        Names, each once.
    of, beside
        Owners of the names, for the message.
    further
        True if `given` may hold further genes; they are left out.
    what
        Noun for the names, for the message.

    Raises
    ------
    GeneMatchError
        With the number of genes that only one of the two has, three of them and the nearest name.
    """
    if not given.is_unique:
        raise GeneMatchError(f"{of} names {what} more than once: {examples(given[given.duplicated()].unique())}.")
    found = given.get_indexer(wanted)
    missing, extra = wanted[found < 0], given[~given.isin(wanted)]
    if len(missing) or (len(extra) and not further):
        lacks = f"lacks {len(missing)} of {len(wanted)} {what} ({_named(missing, given)}) of {beside}"
        has = f"has {len(extra)} {what} that {beside} lacks ({_named(extra, wanted)})"
        difference = " and ".join([lacks] * bool(len(missing)) + [has] * bool(len(extra) and not further))
        raise GeneMatchError(
            f"{of} {difference}; it holds {examples(given)}. Subset both to their common {what}, under the same naming "
            "scheme."
        )
    return np.asarray(found, dtype=np.intp)


def _named(names: pd.Index, known: pd.Index) -> str:
    """Three of the names, and the known name nearest to the first of them."""
    if not len(names):
        return ""
    # differences of spelling alone: a search for slips among all genes takes long
    close = nearest(names[0], known[known.str.casefold() == str(names[0]).casefold()])
    return examples(names) + ("" if close is None else f"; {close!r} is there")


def axes_of(components: ArrayLike | pd.DataFrame, found: Aligned) -> NDArray[np.float64]:
    """A projection in the order of the genes, (n_genes, n_components).

    Raises
    ------
    GeneMatchError
        Rows do not fit the genes, or name others.
    DeltaviError
        It does not hold finite numbers.
    """
    n_genes = found.n_genes
    if isinstance(components, pd.DataFrame) and found.genes is not None:
        index = unique_genes(components.index, "components", "a renaming of the rows")
        components = components.iloc[places(index, found.genes, of="components", beside="the tables")]
    else:
        found.require_one_order("components hold genes")
    if np.ndim(components) != 2 or np.shape(components)[0] != n_genes:
        raise GeneMatchError(
            f"components must be (n_genes, n_components) with {n_genes} rows, got {np.shape(components)}."
        )
    return np.asarray(as_matrix(components, "components"), dtype=np.float64)
