"""Where the components of a mixture begin: on labelled cells, and on clusters of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from sklearn.cluster import KMeans

# Share of the epochs before components are placed: the plain VAE first finds where the cells lie.
WARMUP = 0.3
# Starts of k-means.
PLACEMENTS = 10


class PlaceComponents(Callback):
    """Places the components of a mixture when an epoch begins.

    Parameters
    ----------
    model
        A model with a mixture.
    cells
        Positions of training cells.
    epoch
        The epoch.
    """

    def __init__(self, model: Any, cells: np.ndarray, epoch: int) -> None:
        self.model, self.cells, self.epoch = model, cells, epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Place them, if it is the epoch."""
        if trainer.current_epoch == self.epoch:
            self.model._place_components(self.cells)


def placed(
    means: np.ndarray, codes: np.ndarray, n_labels: int, n_components: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and variances of components, both ``(n_components, n_latent)``.

    Named components lie at the mean of their labelled cells. Free ones are the centres of k-means among all cells
    that are farthest from the named ones; without labels, those of k-means.

    Parameters
    ----------
    means
        ``(n_cells, n_latent)`` positions.
    codes
        ``(n_cells,)`` labels, -1 where unknown.
    n_labels, n_components
        Named, and all components.
    seed
        Seed of k-means.
    """
    named = np.stack([means[codes == k].mean(0) for k in range(n_labels)]) if n_labels else means[:0]
    n_free = n_components - n_labels
    found = KMeans(n_components, n_init=PLACEMENTS, random_state=seed).fit(means).cluster_centers_
    if n_labels and n_free:
        distance = ((found[:, None] - named) ** 2).sum(-1).min(1)
        found = found[np.argsort(-distance)]
    centres = np.concatenate([named, found[:n_free]])
    nearest = ((means[:, None] - centres) ** 2).sum(-1).argmin(1)
    overall = np.stack([(means[nearest == k] - centres[k]).var(0) for k in np.unique(nearest)]).mean(0)
    variances = [
        ((means[nearest == k] - centres[k]) ** 2).mean(0) if (nearest == k).sum() > 1 else overall
        for k in range(n_components)
    ]
    return centres, np.maximum(np.stack(variances), 0.1 * overall)
