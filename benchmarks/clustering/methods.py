"""Methods of clustering: Leiden, k-means and Gaussian mixtures on principal components or the latent space of a model.

A method, `method(cells, seed)`, sees no label, at most the number of labels. It gives one clustering per
granularity, from coarse to fine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from benchmarks.harness.command import QUIET

if TYPE_CHECKING:
    from deltavi.model import MIXVI

N_COMPONENTS, N_NEIGHBOURS = 50, 15
RESOLUTIONS = (0.4, 0.8, 1.4)
# Numbers of groups that the components of a mixture are merged to.
N_GROUPS = (8, 10, 12)
# k-means and mixtures get fewer: every further one is a parameter of each mean and covariance.
N_FEW_COMPONENTS, N_STARTS = 20, 10


@dataclass(frozen=True, eq=False)
class Cells:
    """What a method may know of a task: raw counts with `batch` and `total_counts`, and the number of labels."""

    task: str
    adata: AnnData
    n_labels: int

    @property
    def batch_key(self) -> str | None:
        """Column of the batches, where there are several."""
        return "batch" if self.adata.obs["batch"].nunique() > 1 else None


@dataclass(frozen=True, eq=False)
class Clustering:
    """Cluster of every cell, in order, and the processor seconds that it took, with those of the space it lies in."""

    granularity: str
    clusters: np.ndarray
    seconds: float


Method = Callable[[Cells, int], list[Clustering]]
# Position of every cell, (n_cells, n_dimensions), and the processor seconds it took.
Space = tuple[np.ndarray, float]


def principal_components(cells: Cells, seed: int) -> Space:
    """The leading components of log1p CP10k, whose library size is that over all genes."""
    started = time.process_time()  # of this process: other programs on the machine do not count
    scale = sp.diags_array(1e4 / cells.adata.obs["total_counts"].to_numpy(dtype=float))
    expression = AnnData(sp.csr_matrix(scale @ cells.adata.X.astype(float)).log1p())
    sc.pp.pca(expression, n_comps=N_COMPONENTS, random_state=seed)
    return expression.obsm["X_pca"], time.process_time() - started


@lru_cache(maxsize=1)
def latent_of_scvi(cells: Cells, seed: int) -> Space:
    """Latent space of SCVI with the defaults of scvi-tools; the latest one is kept for the methods that ask for it."""
    import scvi

    started, adata = time.process_time(), cells.adata.copy()
    scvi.settings.seed, scvi.settings.num_threads = seed, 1
    scvi.model.SCVI.setup_anndata(adata, batch_key=cells.batch_key)
    model = scvi.model.SCVI(adata)
    model.train(**QUIET)
    positions = model.get_latent_representation()
    return positions, time.process_time() - started


@lru_cache(maxsize=1)
def trained_mixvi(cells: Cells, seed: int) -> tuple[MIXVI, float]:
    """MIXVI without labels and its processor seconds; the latest one is kept for the methods that ask for it."""
    from deltavi.model import MIXVI

    started, adata = time.process_time(), cells.adata.copy()
    MIXVI.setup_anndata(adata, batch_key=cells.batch_key, size_factor_key="total_counts")
    model = MIXVI(adata, seed=seed)
    model.train(**QUIET)
    return model, time.process_time() - started


def leiden(space: Space, seed: int) -> list[Clustering]:
    """Leiden on the graph of nearest neighbours, at every resolution."""
    positions, seconds = space
    started = time.process_time()
    graph = AnnData(obsm={"X": np.asarray(positions)})
    sc.pp.neighbors(graph, n_neighbors=N_NEIGHBOURS, use_rep="X", random_state=seed)
    seconds += time.process_time() - started
    return [communities(graph, resolution, seed, seconds) for resolution in RESOLUTIONS]


def communities(graph: AnnData, resolution: float, seed: int, seconds: float) -> Clustering:
    """Leiden at one resolution, iterated until nothing changes; `seconds` is what its graph took."""
    started = time.process_time()
    sc.tl.leiden(
        graph, resolution, flavor="igraph", n_iterations=-1, directed=False, random_state=seed, key_added="leiden"
    )
    found = graph.obs["leiden"].to_numpy().astype(str)
    return Clustering(f"resolution {resolution:g}", found, seconds + time.process_time() - started)


def kmeans(space: Space, n_labels: int, seed: int) -> list[Clustering]:
    """k-means with the true number of labels."""
    return centres(space, n_labels, KMeans(n_labels, n_init=N_STARTS, random_state=seed))


def centres(space: Space, n_labels: int, model: KMeans | GaussianMixture) -> list[Clustering]:
    """The one clustering of a scikit-learn model with the true number of labels."""
    positions, seconds = space
    started = time.process_time()
    found = model.fit_predict(positions)
    return [Clustering(f"{n_labels} clusters", found, seconds + time.process_time() - started)]


def few_components(cells: Cells, seed: int) -> Space:
    """The first of the principal components, for k-means and mixtures."""
    positions, seconds = principal_components(cells, seed)
    return positions[:, :N_FEW_COMPONENTS], seconds


def mixture_pca(cells: Cells, seed: int) -> list[Clustering]:
    """Gaussian mixture with full covariances on principal components."""
    model = GaussianMixture(cells.n_labels, n_init=N_STARTS, random_state=seed)
    return centres(few_components(cells, seed), cells.n_labels, model)


def kmeans_mixvi(cells: Cells, seed: int) -> list[Clustering]:
    """k-means on z of MIXVI, to see what the mixture adds."""
    model, seconds = trained_mixvi(cells, seed)
    started = time.process_time()
    positions = model.get_latent_representation()
    return kmeans((positions, seconds + time.process_time() - started), cells.n_labels, seed)


def mixvi(cells: Cells, seed: int) -> list[Clustering]:
    """The components of MIXVI, merged to every number of groups."""
    model, seconds = trained_mixvi(cells, seed)
    started = time.process_time()
    responsibilities = model.get_responsibilities()
    seconds += time.process_time() - started
    return [merged(model, responsibilities.idxmax(axis=1), n_groups, seconds) for n_groups in N_GROUPS]


def merged(model: MIXVI, components: Any, n_groups: int, seconds: float) -> Clustering:
    """Group of every cell's most probable component."""
    started = time.process_time()
    found = components.map(model.merge_components(n_groups)).to_numpy().astype(str)
    return Clustering(f"{n_groups} groups", found, seconds + time.process_time() - started)


METHODS: dict[str, Method] = {
    # as in the tutorials of scanpy; batches are not corrected for
    "leiden_pca": lambda cells, seed: leiden(principal_components(cells, seed), seed),
    "leiden_scvi": lambda cells, seed: leiden(latent_of_scvi(cells, seed), seed),
    "kmeans_pca": lambda cells, seed: kmeans(few_components(cells, seed), cells.n_labels, seed),
    "mixture_pca": mixture_pca,
    "kmeans_scvi": lambda cells, seed: kmeans(latent_of_scvi(cells, seed), cells.n_labels, seed),
    "kmeans_mixvi": kmeans_mixvi,
    "mixvi": mixvi,
}
