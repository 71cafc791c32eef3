"""Tasks of cell type annotation, built from real data: which cells carry a label, and on which predictions count.

A task holds reference and query cells together, so that methods which learn from unlabelled cells can use all of them.
Genes are chosen without any label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks.harness.data import UNKNOWN, annotated, choose_genes

NAMES = (
    *("a_10", "a_50", "a_all", "b_indrop", "b_celseq", "c_pbmc3k", "c_kang"),
    *("d_a", "d_b_indrop", "d_b_celseq", "d_c_pbmc3k", "d_c_kang"),
)
# A type is part of a task between studies if it has at least so many cells ...
LEAST_REFERENCE, LEAST_QUERY = 10, 5
# ... and may be left out of the reference if the query has at least so many.
LEAST_LEFT_OUT = 20
HELD_OUT_SHARE = 0.1
# The reference study of a task is named by its last word.
STUDIES = {
    "indrop": "inDrop human4 (Baron)",
    "celseq": "CEL-seq (Grun)",
    "pbmc3k": "pbmc3k",
    "kang": "Kang control",
}
BLOOD_TYPES = {
    "Naive CD4 T": "CD4 T",
    "Memory CD4 T": "CD4 T",
    "CD4T": "CD4 T",
    "CD8T": "CD8 T",
    "CD14+Mono": "CD14+ Mono",
    "FCGR3A+Mono": "FCGR3A+ Mono",
    "Dendritic": "DC",
    "Platelet": "Megakaryocyte",
}


@dataclass(frozen=True)
class Task:
    """Cells of one annotation task: raw counts of the chosen genes, and in `adata.obs` what may be known of each cell.

    `label_known` is the label or "unknown" where it is hidden, `label_true` the harmonised truth, `batch` the study,
    `total_counts` the counts over all genes of the study. `is_reference` marks cells with a known label, `is_test`
    those on which predictions are scored, `is_held_out` cells of the reference's study and types with a hidden label.
    Types in `dropped` were too small and are not in the data.
    """

    name: str
    seed: int
    adata: AnnData
    left_out: str | None = None
    dropped: tuple[str, ...] = ()

    @property
    def types(self) -> list[str]:
        """Types of the reference, sorted: the columns of every method's probabilities."""
        return sorted(set(self.adata.obs["label_known"].astype(str)) - {UNKNOWN})

    def mask(self, column: str) -> np.ndarray:
        """The boolean column `column` of the cells."""
        return np.asarray(self.adata.obs[column], dtype=bool)


@dataclass(frozen=True)
class Result:
    """What a method says about the cells of a task, in order.

    `probabilities` has a column per type of the reference and rows that sum to one; `novelty_score`, `(n_cells,)`, is
    higher for cells that are less like the reference's types; `p_values`, `(n_cells,)`, are of the hypothesis that a
    cell is of such a type, for methods that give them.
    """

    probabilities: pd.DataFrame
    novelty_score: np.ndarray
    p_values: np.ndarray | None
    seconds: float


def family(name: str) -> str:
    """Tasks with the same cells and genes, which can share whatever is learned without labels."""
    return name if name.startswith("d_") else name[0]


def build_task(name: str, folder: Path, seed: int) -> Task:
    """Task `name` (one of `NAMES`) from the files in `folder`; `seed` decides the split and the type left out."""
    if name not in NAMES:
        raise ValueError(f"no task {name!r}; there are {', '.join(NAMES)}")
    letter, *_, part = name.removeprefix("d_").split("_") if name != "d_a" else ("a", "all")
    adata = read(letter, folder).copy()
    dropped: tuple[str, ...] = ()
    if letter != "a":
        adata, dropped = drop_small_types(adata, adata.obs["batch"] == STUDIES[part])
    split = split_one_study if letter == "a" else split_two_studies
    split(adata, part, np.random.default_rng(seed))
    left_out = type_to_leave_out(adata, seed) if name.startswith("d_") else None
    if left_out is not None:
        adata = adata[~((adata.obs["label_true"] == left_out) & ~adata.obs["is_test"])].copy()
        adata.obs["is_held_out"] &= adata.obs["label_true"] != left_out
    known = np.where(adata.obs["is_reference"], adata.obs["label_true"], UNKNOWN)
    adata.obs["label_known"] = pd.Categorical(known)
    return Task(name, seed, choose_genes(adata), left_out, dropped)


@lru_cache(maxsize=1)
def read(letter: str, folder: Path) -> AnnData:
    """All cells and genes of the tasks `letter`: sorted blood cells (a), pancreas (b), blood of two studies (c)."""
    if letter == "a":
        return annotated(folder / "zheng_facs_pbmc.h5ad", study="sorted PBMC (Zheng)")
    if letter == "b":
        return annotated(folder / "pancreas_celseq_indrop.h5ad")
    kang = annotated(folder / "kang_full_genes.h5ad", study=STUDIES["kang"])
    both = {
        STUDIES["pbmc3k"]: annotated(folder / "pbmc3k_labelled.h5ad", study=STUDIES["pbmc3k"]),
        STUDIES["kang"]: kang[kang.obs["condition"] == "control"],
    }
    adata = anndata.concat(both, join="inner", index_unique="-")
    adata.obs["label_true"] = adata.obs["label_true"].replace(BLOOD_TYPES)
    return adata


def drop_small_types(adata: AnnData, reference: pd.Series) -> tuple[AnnData, tuple[str, ...]]:
    """The cells without types that are too small in the reference or the query, and the names of those types."""
    truth = adata.obs["label_true"]
    sizes = pd.DataFrame({"reference": truth[reference].value_counts(), "query": truth[~reference].value_counts()})
    sizes = sizes.fillna(0)
    small = sizes.index[(sizes["reference"] < LEAST_REFERENCE) | (sizes["query"] < LEAST_QUERY)]
    return adata[~truth.isin(small)].copy(), tuple(sorted(small))


def split_one_study(adata: AnnData, part: str, random: np.random.Generator) -> None:
    """Half of each type is the test part; of the rest `part` cells per type ("10", "50" or "all") are labelled.

    The test half does not depend on `part`, and the 10 labelled cells are among the 50.
    """
    place = places_within_types(adata.obs["label_true"], random)
    size = adata.obs.groupby("label_true")["label_true"].transform("size").to_numpy()
    n_training = size - size // 2
    labelled = n_training if part == "all" else np.minimum(int(part), n_training)
    adata.obs["is_test"] = place >= n_training
    adata.obs["is_reference"] = place < labelled
    adata.obs["is_held_out"] = adata.obs["is_test"]  # of the same study as the reference


def split_two_studies(adata: AnnData, part: str, random: np.random.Generator) -> None:
    """The study `part` is the reference, but for a tenth of each type that is held out; the other study is the test."""
    adata.obs["is_test"] = (adata.obs["batch"] != STUDIES[part]).to_numpy()
    groups = adata.obs["label_true"] + adata.obs["batch"]
    place = places_within_types(groups, random)
    size = groups.groupby(groups).transform("size").to_numpy()
    held_out = place < np.maximum(1, np.round(HELD_OUT_SHARE * size))
    adata.obs["is_held_out"] = held_out & ~adata.obs["is_test"]
    adata.obs["is_reference"] = ~held_out & ~adata.obs["is_test"]


def places_within_types(labels: pd.Series, random: np.random.Generator) -> np.ndarray:
    """Place of each cell in a random order of the cells of its type, from 0."""
    shuffled = labels.iloc[random.permutation(len(labels))]
    return shuffled.groupby(shuffled).cumcount().loc[labels.index].to_numpy()


def type_to_leave_out(adata: AnnData, seed: int) -> str:
    """Type number `seed` (modulo their number) of those with enough query cells, in order of size in the query."""
    sizes = adata.obs.loc[adata.obs["is_test"], "label_true"].value_counts().sort_index()
    sizes = sizes[sizes >= LEAST_LEFT_OUT].sort_values(ascending=False, kind="stable")
    return str(sizes.index[seed % len(sizes)])
