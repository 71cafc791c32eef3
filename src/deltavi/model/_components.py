"""Components of a mixture: their names, their share in each cell, and fewer of them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._random import isolated_randomness
from deltavi.annotation import merged_components
from deltavi.model._cells import Indices, positions
from deltavi.model._classification import BATCH_SIZE


class ComponentsMixin:
    """Carries ``get_responsibilities`` and ``merge_components``; the module gives ``responsibilities``."""

    @property
    def component_names(self) -> np.ndarray:
        """Name of every component: its label, or "component 0", "component 1" and so on for the free ones."""
        model = cast("Any", self)
        n_labels, n = model.module.n_labels, model.module.n_components
        free = [f"component {k}" for k in range(n_labels, n)]
        labels = model._categories(REGISTRY_KEYS.LABELS_KEY)[:n_labels]
        return np.array([*labels, *free], dtype=object)

    def get_responsibilities(
        self, adata: AnnData | None = None, *, indices: Indices | None = None, batch_size: int = BATCH_SIZE
    ) -> pd.DataFrame:
        """Share of every component in each cell: q(y | z) at the posterior mean of z.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.
        batch_size
            Cells taken at a time.

        Returns
        -------
        Frame of cells by components, rows summing to one.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        model = cast("Any", self)
        model._require_trained("get_responsibilities")
        aligned = model._validate_anndata(adata)
        chosen = positions(indices, aligned.n_obs)
        values = self._over_batches(model.module.responsibilities, aligned, chosen, batch_size)
        return pd.DataFrame(values, index=aligned.obs_names[chosen], columns=self.component_names)

    def merge_components(self, n_groups: int) -> pd.Series:
        """Fewer groups of components: those whose cells can hardly be told apart are merged, pair by pair.

        Components that carry labels are never merged with each other; a group with a label has its name.

        Parameters
        ----------
        n_groups
            Groups to end with.

        Returns
        -------
        Name of the group of every component, by its name: ``model.predict().map(model.merge_components(8))``.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If there are fewer components than `n_groups`, or more labels.
        """
        model = cast("Any", self)
        shares = self.get_responsibilities().to_numpy()
        groups = merged_components(shares, n_groups, n_apart=model.module.n_labels)
        names = self.component_names
        # the first component of a group is its label, where it has one
        first = {int(group): names[int(np.flatnonzero(groups == group)[0])] for group in np.unique(groups)}
        return pd.Series([first[int(group)] for group in groups], index=names, dtype=object, name="group")

    def _over_batches(self, what: Any, adata: AnnData, chosen: np.ndarray, batch_size: int) -> np.ndarray:
        """`what` of the mini-batches of the chosen cells, joined."""
        model = cast("Any", self)
        model.module.eval()
        if not len(chosen):
            return np.zeros((0, model.module.n_components))
        loader = model._make_data_loader(adata=adata, indices=chosen, batch_size=batch_size)
        with torch.inference_mode(), isolated_randomness(model.seed):
            return np.concatenate([what(tensors).cpu().numpy() for tensors in loader]).astype(np.float64)
