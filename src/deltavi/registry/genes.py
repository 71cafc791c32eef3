"""Match the genes of a query to the genes of a model, by name and never by position."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deltavi._entries import names, positions, scalar
from deltavi._errors import DeltaviError, DuplicateNameWarning, GeneMatchError, GeneMatchWarning, examples, nearest
from deltavi._text import as_text

logger = logging.getLogger("deltavi")

# Below this share of the model's genes present, predictions come with a warning.
WARN_OVERLAP = 0.95
ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}(\.\d+)?$")
VERSION = re.compile(r"\.\d+$")
# A genome before the name of a gene, such as "GRCh38_", "mm10___" or "GRCh38-2020-A_"; Seurat turns "_" into "-".
PREFIX = r"^([A-Za-z][^_:|]*?[_:|]+|[A-Za-z]+\d+-+)"
# Prefixes tried, of which a reference of several species has one each.
MOST_PREFIXES = 4


@dataclass(frozen=True)
class GeneMatch:
    """Position of each gene of the model in a query.

    Parameters
    ----------
    positions
        ``(n_model_genes,)`` column of the query, -1 where the gene is absent.
    n_extra
        Number of genes of the query that the model lacks.
    """

    positions: np.ndarray
    n_extra: int

    @property
    def overlap(self) -> float:
        """Share of the model's genes that the query has."""
        return float((self.positions >= 0).mean())

    @property
    def is_identity(self) -> bool:
        """Same genes in the same order."""
        return self.n_extra == 0 and bool(np.array_equal(self.positions, np.arange(len(self.positions))))


def require_unique_genes(names: pd.Index, *, where: str) -> None:
    """Raise where gene names repeat: a match by name would be ambiguous."""
    if names.is_unique:
        return
    repeated = names[names.duplicated()].unique()
    raise GeneMatchError(
        f"{where} has {len(repeated)} gene names that occur more than once (for example {examples(repeated)}). "
        "Make them unique on a copy: adata = adata.copy(); adata.var_names_make_unique()."
    )


def warn_duplicate_cells(names: pd.Index) -> None:
    """Warn where cell names repeat; results stay in the order of the rows."""
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        message = f"{len(repeated)} cell names occur more than once (for example {examples(repeated)});"
        warnings.warn(message + " results are matched by position.", DuplicateNameWarning, stacklevel=4)


def match_genes(query: Sequence[str] | pd.Index, model: Sequence[str] | pd.Index, *, min_overlap: float) -> GeneMatch:
    """Find the genes of `model` in `query`.

    Raises
    ------
    GeneMatchError
        If gene names of the query repeat, or less than `min_overlap` of the model's genes are present; the
        message suggests a mapping where the names look like another vocabulary.
    """
    query_names, model_names = pd.Index(query).astype(str), pd.Index(model).astype(str)
    require_unique_genes(query_names, where="The query")
    positions = query_names.get_indexer(model_names)
    match = GeneMatch(positions=positions, n_extra=len(query_names) - int((positions >= 0).sum()))
    n_missing = int((positions < 0).sum())
    if match.overlap < min_overlap or match.overlap == 0.0:
        raise GeneMatchError(_too_few(match, query_names, model_names, min_overlap))
    if n_missing:
        message = f"{n_missing} of {len(model_names)} genes of the model are missing from the query "
        message += f"({match.overlap:.0%} present), for example {examples(model_names[positions < 0])}; "
        message += "they are read as zero counts."
        if match.overlap < WARN_OVERLAP:
            warnings.warn(message, GeneMatchWarning, stacklevel=4)
        else:
            logger.info(message)
    if match.n_extra:
        logger.info("%d genes of the query are unknown to the model and are left out.", match.n_extra)
    return match


def _too_few(match: GeneMatch, query: pd.Index, model: pd.Index, min_overlap: float) -> str:
    return (
        f"Only {100 * match.overlap:.3g}% of the model's {len(model)} genes are in the query (at least "
        f"{min_overlap:.0%} are "
        f"needed; model.min_gene_overlap sets the floor). Model: {examples(model)}. Query: {examples(query)}."
        f"{suggest_vocabulary(query, model)}"
    )


def suggest_vocabulary(query: pd.Index, model: pd.Index) -> str:
    """Suggest a renaming that would make the names match, if there is one; nothing is renamed."""
    if _share(query.str.replace(VERSION, "", regex=True), model.str.replace(VERSION, "", regex=True)) > 0.5:
        return " The names differ by a version suffix: strip it with adata.var_names.str.replace(r'\\.\\d+$', '')."
    if _share(query.str.upper(), model.str.upper()) > 0.5:
        return " The names differ by case: rename them, for example adata.var_names.str.upper()."
    for suggestion in (_prefix_of_query, _prefix_of_model, _spaces):
        if found := suggestion(query, model):
            return found
    query_ensembl, model_ensembl = _ensembl_share(query), _ensembl_share(model)
    if query_ensembl > 0.5 > model_ensembl:
        return " The query has Ensembl identifiers, the model gene symbols: map them to symbols first."
    if model_ensembl > 0.5 > query_ensembl:
        return " The query has gene symbols, the model Ensembl identifiers: map them to identifiers first."
    return ""


def _prefix_of_query(query: pd.Index, model: pd.Index) -> str:
    """Suggest to strip a genome's prefix from names of the query, as aligners to several species add."""
    prefix = _prefix(query, model)
    if prefix is None:
        return ""
    some = int((~query.str.startswith(prefix)).sum())
    others = f" {some} genes have another prefix or none: leave them out." if some else ""
    return (
        f" Genes of the query have the prefix {prefix!r}, as of a genome: strip it, "
        f"adata.var_names = adata.var_names.str.removeprefix({prefix!r}).{others}"
    )


def _prefix_of_model(query: pd.Index, model: pd.Index) -> str:
    prefix = _prefix(model, query)
    if prefix is None:
        return ""
    return (
        f" Genes of the model have the prefix {prefix!r}, as of a genome: put it before those of the query, "
        f"adata.var_names = {prefix!r} + adata.var_names."
    )


def _prefix(names: pd.Index, bare: pd.Index) -> str | None:
    """Prefix of most `names` that `bare` lack; without it, versions and case aside, most names are the same."""
    prefixes = names.str.extract(PREFIX, expand=False).value_counts()
    for prefix in prefixes.index[:MOST_PREFIXES]:
        stripped = names[names.str.startswith(prefix)].str.removeprefix(prefix)
        smaller = min(len(stripped), len(bare))
        plain, wanted = _plain_names(stripped), _plain_names(bare)
        if len(stripped) > 1 and wanted.isin(plain).sum() > 0.5 * smaller:
            return str(prefix)
    return None


def _plain_names(names: pd.Index) -> pd.Index:
    return names.str.replace(VERSION, "", regex=True).str.upper()


def _spaces(query: pd.Index, model: pd.Index) -> str:
    if _share(query.str.strip(), model.str.strip()) > 0.5:
        return " The names differ by spaces around them: strip them with adata.var_names.str.strip()."
    return ""


def _share(query: pd.Index, model: pd.Index) -> float:
    return float(model.isin(query).mean()) if len(model) else 0.0


def _ensembl_share(names: pd.Index) -> float:
    head = names[:1000]
    return float(np.mean([bool(ENSEMBL.match(name)) for name in head])) if len(head) else 0.0


def gene_positions(
    gene_list: object,
    genes: pd.Index,
    *,
    name: str = "gene_list",
    held_by: str = "the model",
    listed: str = "gene_names",
) -> np.ndarray:
    """Positions of the chosen genes, by name or by a mask, ``(n_chosen,)``.

    Parameters
    ----------
    gene_list
        Names, or a mask over `genes`.
    genes
        Known genes.
    name
        Name of the argument, for the message.
    held_by, listed
        Owner of the genes, and its attribute that lists them, for the message.

    Raises
    ------
    DeltaviError
        If there is no such gene, none is named, or a name stands twice.
    """
    if _is_mask(gene_list):
        found = positions(gene_list, len(genes), name=name, cells=genes, what="genes")
    else:
        wanted = names(name, gene_list)
        found = genes.get_indexer(pd.Index([as_text(gene) for gene in wanted], dtype=object))
        if (found < 0).any():
            absent = [gene for gene, place in zip(wanted, found, strict=True) if place < 0]
            raise GeneMatchError(
                f"{len(absent)} genes of {name} are not among the {len(genes)} of {held_by}: {examples(absent)}."
                f"{_nearest_genes(absent, genes)} Those are in {listed}, such as {examples(genes[:3])}."
            )
    if not len(found):
        raise DeltaviError(f"{name} names no gene: name at least one, or pass None for all.")
    return np.asarray(found)


def _nearest_genes(absent: list[object], genes: pd.Index) -> str:
    """Nearest names of genes that are not there; there are too many to list."""
    close = [found for gene in absent[:3] if (found := nearest(gene, genes)) is not None]
    return f" Did you mean {examples(close)}?" if close else ""


def _is_mask(values: object) -> bool:
    dtype = getattr(values, "dtype", None)
    if dtype is not None and str(dtype) != "object":
        return "bool" in str(dtype)
    if not isinstance(values, list | tuple | np.ndarray | pd.Series | pd.Index) or np.ndim(values) != 1:
        return False
    return len(values) > 0 and all(isinstance(scalar(value), bool) for value in values)
