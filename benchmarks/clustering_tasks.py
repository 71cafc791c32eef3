"""Data of the comparison of clusterings: cells with a known type, which no method sees.

Genes are chosen without any label.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from annotation_tasks import annotated, choose_genes

# What each data set holds, and the column of its batches.
TASKS = {
    "pbmc3k": ("pbmc3k_labelled.h5ad", "PBMC, 10x"),
    "zheng": ("zheng_facs_pbmc.h5ad", "bead-sorted PBMC"),
    "kang_control": ("kang_full_genes.h5ad", "PBMC of eight donors, control"),
    "pancreas": ("pancreas_celseq_indrop.h5ad", "pancreas by two technologies"),
}


def build(name: str, folder: Path) -> AnnData:
    """Raw counts of the 2,000 most variable genes.

    obs holds `label_true`, `batch` and `total_counts` over all genes.
    """
    file, _ = TASKS[name]
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
