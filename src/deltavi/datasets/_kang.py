"""The experiment of Kang et al. (2018): blood cells of eight patients, with and without interferon beta."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import anndata
import pandas as pd
from anndata import AnnData

from deltavi._entries import flag, shown
from deltavi._errors import DataFileError, DeltaviError, unknown_category
from deltavi._reading import known_arguments
from deltavi.registry.counts import counts_of

DATA_FOLDER_VARIABLE = "DELTAVI_DATA"
KANG_FILES: Mapping[str, str] = {"9k": "kang_9k_genes.h5ad", "full": "kang_full_genes.h5ad"}
KANG_URL = "https://exampledata.scverse.org/pertpy/kang_2018.h5ad"
# A download is accepted only when its SHA-256 is the expected one. None: the caller has to state it.
KANG_SHA256: str | None = None

# Columns and values of the hosted file and of the prepared ones differ; these are the names in the result.
SOURCE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "condition": ("condition", "label"),
    "cell_type": ("cell_type",),
    "donor": ("donor", "replicate"),
}
CONDITION_NAMES: Mapping[str, str] = {
    "ctrl": "control",
    "control": "control",
    "stim": "stimulated",
    "stimulated": "stimulated",
}
CELL_TYPE_NAMES: Mapping[str, str] = {
    "B cells": "B",
    "CD14+ Monocytes": "CD14+Mono",
    "CD4 T cells": "CD4T",
    "CD8 T cells": "CD8T",
    "Dendritic cells": "Dendritic",
    "FCGR3A+ Monocytes": "FCGR3A+Mono",
    "Megakaryocytes": "Megakaryocyte",
    "NK cells": "NK",
}
DONOR_PREFIX = "patient_"


@known_arguments
def kang(
    path: str | os.PathLike[str] | None = None,
    *,
    genes: Literal["9k", "full"] = "9k",
    download: bool = True,
    known_hash: str | None = None,
) -> AnnData:
    """Load the interferon-beta experiment on blood cells, with the same names from any of its files.

    The file is taken from `path`; else from the folder named by the environment variable ``DELTAVI_DATA``; else it is
    downloaded from scverse's example data into the user's cache, provided its SHA-256 is known.

    Parameters
    ----------
    path
        An h5ad file. When given, no other place is searched.
    genes
        File of the folder to take: ``"9k"`` (``kang_9k_genes.h5ad``) or ``"full"`` (``kang_full_genes.h5ad``).
        The downloaded file has genes and cells of its own.
    download
        True to download the file when it is in neither place.
    known_hash
        SHA-256 of the hosted file, in hexadecimal, for a verified download. A file that does not match is refused.

    Returns
    -------
    AnnData with raw counts in ``X`` (CSR float32) and categorical ``obs`` columns ``condition`` (``"control"``,
    ``"stimulated"``), ``cell_type`` and, where the file has it, ``donor``. Other columns are kept as they are.

    Raises
    ------
    DataFileError
        If the file is not found (also a ``FileNotFoundError``) or is no h5ad file, or the download failed or
        did not match.
    UnknownCategoryError
        If `genes` is not a known choice, a column is missing, or the conditions are not those of the experiment.
    InputDataError
        If ``X`` does not hold raw counts.

    References
    ----------
    Kang et al., Multiplexed droplet single-cell RNA-sequencing using natural genetic variation,
    Nature Biotechnology 36, 89-94 (2018). GSE96583, batch 2.
    """
    if not isinstance(genes, str) or genes not in KANG_FILES:
        raise unknown_category("genes", genes if isinstance(genes, str) else shown(genes), KANG_FILES)
    if path is not None and not isinstance(path, str | os.PathLike):
        raise DeltaviError(f"path must be the path of an h5ad file, not {shown(path)}.")
    if known_hash is not None and not isinstance(known_hash, str):
        raise DeltaviError(f"known_hash must be a SHA-256 in hexadecimal, not {shown(known_hash)}.")
    flag("download", download)
    file = _find(path, KANG_FILES[genes], download=download, known_hash=known_hash or KANG_SHA256)
    try:
        cells = anndata.read_h5ad(file)
    # parsers may raise any error on foreign files
    except Exception as error:
        raise DataFileError(f"{file} cannot be read as h5ad: {error}") from error
    return _standardise(cells)


def _find(path: str | os.PathLike[str] | None, name: str, *, download: bool, known_hash: str | None) -> Path:
    """Return the first place that holds the file; a path that was given is never replaced by another place."""
    folder = os.environ.get(DATA_FOLDER_VARIABLE)
    if path is not None:
        if (given := Path(path).expanduser()).is_file():
            return given
    elif folder and (there := Path(folder).expanduser() / name).is_file():
        return there
    elif download and known_hash is not None:
        return _download(known_hash)
    raise DataFileError(
        "The data of Kang et al. were not found.\n"
        f"1. path: {'not given' if path is None else f'{str(path)!r} is not a file; leave it out to try the others'}.\n"
        f"2. {DATA_FOLDER_VARIABLE}: {f'{name!r} is not in {folder!r}' if folder else 'not set'}.\n"
        f"3. download: {_why_not_downloaded(path, download)}"
    )


def _why_not_downloaded(path: object, download: bool) -> str:
    if path is not None:
        return "not tried, because a path was given."
    if not download:
        return "switched off by download=False."
    return (
        f"refused, because the SHA-256 of {KANG_URL} is not known here and only verified downloads are made. "
        "Pass known_hash='<SHA-256>', or fetch the file yourself and pass its path."
    )


def _download(known_hash: str) -> Path:
    """Fetch the hosted file into the user's cache, or take it from there, if its hash is `known_hash`."""
    import pooch

    try:
        file = pooch.retrieve(
            KANG_URL, known_hash=known_hash, fname=KANG_URL.rsplit("/", 1)[-1], path=pooch.os_cache("deltavi")
        )
    except (OSError, ValueError) as error:
        raise DataFileError(f"{KANG_URL} could not be downloaded and verified: {error}") from error
    return Path(file)


def _standardise(adata: AnnData) -> AnnData:
    """Give the columns and their values the names documented, and X its type."""
    adata.X = counts_of(adata)
    for column, sources in SOURCE_COLUMNS.items():
        source = next((s for s in sources if s in adata.obs), None)
        if source is not None:
            adata.obs = adata.obs.rename(columns={source: column})
        elif column != "donor":
            raise unknown_category("obs column", column, adata.obs.columns)
    adata.obs["condition"] = _conditions(adata.obs["condition"])
    adata.obs["cell_type"] = _category(adata.obs["cell_type"], lambda name: CELL_TYPE_NAMES.get(name, name))
    if "donor" in adata.obs:
        adata.obs["donor"] = _category(adata.obs["donor"], lambda name: name.removeprefix(DONOR_PREFIX))
    return adata


def _conditions(column: pd.Series) -> pd.Categorical[str]:
    """Both conditions under this package's names, control first."""
    names = column.astype(str)
    unknown = sorted(set(names) - set(CONDITION_NAMES))
    if unknown:
        raise unknown_category("condition", ", ".join(unknown[:3]), CONDITION_NAMES)
    return pd.Categorical([CONDITION_NAMES[name] for name in names], categories=["control", "stimulated"])


def _category(column: pd.Series, rename: Callable[[str], str]) -> pd.Series:
    """Rename the values of a column and make it categorical; missing values stay missing."""
    return column.astype(object).map(lambda value: rename(str(value)), na_action="ignore").astype("category")
