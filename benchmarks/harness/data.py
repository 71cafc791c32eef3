"""Real data of the studies: where they lie, and cells with their known types, genes chosen without any label."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import anndata
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

UNKNOWN = "unknown"
N_GENES = 2000
KANG = "kang_9k_genes.h5ad"
# Too few cells to hold out.
TOO_SMALL = ("Megakaryocyte",)
# Data sets of one study or corrected for: the file, and what it holds.
SETS = {
    "pbmc3k": ("pbmc3k_labelled.h5ad", "PBMC, 10x"),
    "zheng": ("zheng_facs_pbmc.h5ad", "bead-sorted PBMC"),
    "kang_control": ("kang_full_genes.h5ad", "PBMC of eight donors, control"),
    "pancreas": ("pancreas_celseq_indrop.h5ad", "pancreas by two technologies"),
}


def default_folder() -> Path:
    """Folder of the data: the variable DELTAVI_DATA, else `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("DELTAVI_DATA", beside))


def annotated(path: Path, study: str | None = None) -> AnnData:
    """Cells of a file with `label_true`, `batch` (`study`, or the file's own) and `total_counts` over all its genes."""
    adata = anndata.read_h5ad(path)
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    adata.obs["label_true"] = adata.obs["cell_type"].astype(str)
    adata.obs["batch"] = adata.obs["batch"].astype(str) if study is None else study
    adata.obs["total_counts"] = np.asarray(adata.X.sum(1)).ravel()
    columns = ["label_true", "batch", "total_counts", *adata.obs.columns.intersection(["condition"])]
    return AnnData(adata.X, obs=adata.obs[columns].copy(), var=adata.var[[]].copy())


def choose_genes(adata: AnnData) -> AnnData:
    """The cells with the most variable genes by their counts, in every study if there are several."""
    batch_key = "batch" if adata.obs["batch"].nunique() > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(
            adata, n_top_genes=N_GENES, flavor="seurat_v3", batch_key=batch_key, inplace=False
        )
    chosen = adata[:, table["highly_variable"].to_numpy()].copy()
    chosen.obs["batch"] = chosen.obs["batch"].astype("category")
    return chosen


def kang_cells(path: Path) -> AnnData:
    """The interferon experiment without the types that are too small."""
    adata = anndata.read_h5ad(path)
    return adata[~adata.obs["cell_type"].isin(TOO_SMALL)].copy()


def build(name: str, folder: Path) -> AnnData:
    """Raw counts of the 2,000 most variable genes.

    obs holds `label_true`, `batch` and `total_counts` over all genes.
    """
    file, _ = SETS[name]
    adata = annotated(folder / file, study=None if name == "pancreas" else name)
    if name == "kang_control":
        # donors are too small to choose genes in each of them
        adata = adata[adata.obs["condition"] == "control"].copy()
    chosen = choose_genes(adata)
    if name == "kang_control":
        donors = anndata.read_h5ad(folder / file, backed="r").obs["donor"].astype(str)
        chosen.obs["batch"] = donors[chosen.obs_names].astype("category")
    chosen.X = sp.csr_matrix(chosen.X, dtype=np.float32)
    return chosen
