"""How a mixture is trained: placed after a warm-up, pruned, let go of its labels, started again if it collapses."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch

from deltavi import _keys
from deltavi._errors import DeltaviError, MixtureWarning
from deltavi.latent import Usage
from deltavi.model._components import ComponentsMixin
from deltavi.model._label_column import LabelColumnMixin
from deltavi.model._placement import AtEpoch, Positions, placed
from deltavi.module import MIXVI
from deltavi.train import CellSplit

# Share of the epochs before components are placed: the plain VAE first finds where the cells lie.
PRIOR_WARMUP = 0.3
# Components beyond the labels, and components without any.
FREE_COMPONENTS, UNLABELLED_COMPONENTS = 5, 12
# By default there are no more free components than the cells divided by this.
FEWEST_CELLS = 10
# Below this effective number of components a mixture of several has collapsed.
COLLAPSED = 1.5
# Below so many nats in all its dimensions w says next to nothing.
SILENT_W = 0.1


class MixtureTrainingMixin(ComponentsMixin, LabelColumnMixin):
    """Comes before what trains; the module has a mixture, the model ``drop_labels_after``."""

    module: MIXVI
    # share of the epochs before components are placed
    prior_warmup: float
    # share of the epochs after which labels are dropped, if they are
    drop_labels_after: float | None
    _asked_components: int | None

    def train(  # type: ignore[override]  # what is handed on is among the keywords
        self, max_epochs: int | None = None, **kwargs: Any
    ) -> None:
        """Train the model, as in :meth:`deltavi.model.VAE.train`.

        The first part of the epochs trains a VAE with a standard normal prior; components are then placed where its
        cells lie. Components that end without cells are no longer used. A run that ends with one component in use is
        started again once, with another seed.

        Parameters
        ----------
        max_epochs, **kwargs
            As there.

        Raises
        ------
        DeltaviError
            If there are more components than training cells, or an argument makes no sense.
        """
        starts_here = not (self.is_trained_ or self.is_mapped_)
        initial = copy.deepcopy(self.module.state_dict()) if starts_here else None
        super().train(max_epochs, **kwargs)
        if initial is None or not self._has_collapsed():
            return
        _warn(self._collapse() + " Training starts again with another seed.")
        self.module.load_state_dict(initial)
        self.is_trained_, self.history_ = False, None
        seed = kwargs.get("seed")
        super().train(max_epochs, **{**kwargs, "seed": 1 + (self.seed if seed is None else seed)})
        if self._has_collapsed():
            _warn(self._collapse() + " The cells may be of one kind; or train longer, or with another seed.")

    # -- steps -----------------------------------------------------------------------------------------------

    def _data_dimensions(self) -> dict[str, Any]:
        dimensions = super()._data_dimensions()
        n_labels = dimensions["n_labels"] if self.has_labels else 0
        asked = self._asked_components
        if asked is None:
            n_free = FREE_COMPONENTS if n_labels else UNLABELLED_COMPONENTS
            # of few cells there are few groups
            asked = n_labels + min(n_free, max(n_labels == 0, self.summary_stats.n_cells // FEWEST_CELLS))
        return {**dimensions, "n_labels": n_labels, "n_components": asked}

    def _loading_options(self, seed: int) -> dict[str, Any]:
        return {"sampling_seed": seed, **({} if self.has_labels else {"repeated_share": 0.0})}

    def _before_training(self, split: CellSplit) -> None:
        if self.is_trained_ or self.is_mapped_:
            return
        if self.module.n_components > len(split.train):
            raise DeltaviError(
                f"{self.module.n_components} components are more than the {len(split.train)} training cells: ask for "
                "fewer with n_components."
            )
        self.module.get_buffer("n_cells").fill_(len(split.train))
        self.module.is_placed = self.module.labels_dropped = False
        if self.has_labels:
            self._learn_label_frequencies(split)

    def _own_callbacks(self, split: CellSplit, max_epochs: int) -> list[Any]:
        cells = np.sort(split.train)
        if self.module.is_placed:
            return []
        callbacks = [AtEpoch(self._placed_from(max_epochs), lambda: self._place_components(cells))]
        if self.drop_labels_after is not None:
            dropped_from = self._settled_from(max_epochs)
            callbacks.append(AtEpoch(dropped_from, lambda: setattr(self.module, "labels_dropped", True)))
        return callbacks

    def _placed_from(self, max_epochs: int) -> int:
        return math.floor(float(self.prior_warmup) * max_epochs)

    def _settled_from(self, max_epochs: int) -> int:
        placed_from, share = self._placed_from(max_epochs), self.drop_labels_after
        # labels are not dropped before components lie on them
        return placed_from if share is None else max(placed_from + 1, math.ceil(share * max_epochs))

    def _place_components(self, cells: np.ndarray) -> None:
        """Put named components where their labelled cells lie, and free ones where there are clusters."""
        module, was_training = self.module, self.module.training
        placement = placed(
            self._cell_positions(cells), n_labels=module.n_labels, n_components=module.n_components, seed=self.seed
        )
        means, variances, offsets = (
            torch.from_numpy(values).float() for values in (placement.means, placement.variances, placement.offsets)
        )
        module.mixture.place(means, variances, offsets if module.conditional else None)
        module.prune(torch.from_numpy(placement.has_cells))
        module.is_placed = True
        module.train(was_training)

    def _cell_positions(self, cells: np.ndarray) -> Positions:
        """Posteriors of some of the model's cells, their labels, and their conditions where components move with it."""
        n_latent = self.module.n_latent
        both = self._over_batches(self.module.latent_moments, self.adata, cells, 2 * n_latent)
        groups = np.ones((len(cells), 1))
        if self.module.conditional:
            conditions = np.asarray(self.adata_manager.get_from_registry(_keys.CONDITION)).ravel().astype(int)
            groups = np.eye(self.module.n_conditions)[conditions[cells]]
        codes = self._label_codes()[cells] if self.has_labels else np.full(len(cells), -1)
        return Positions(both[:, :n_latent], both[:, n_latent:], codes, groups)

    def _after_training(self) -> None:
        if not self.module.is_placed:
            self._place_components(np.sort(self.train_indices))
            _warn(
                "Training ended before components were placed: they lie on clusters, and were not trained themselves."
            )
        self._prune_empty()
        super()._after_training()
        self._note_usage()
        nats = float(self.get_kl_per_dimension().filter(like="w ").sum()) if self.module.n_w else SILENT_W
        if nats < SILENT_W:
            _warn(
                f"w says {nats:.2g} nats about a cell, next to nothing: predictions by the route 'w' hold one profile "
                "per component. A larger free_bits_w keeps it alive."
            )

    def _prune_empty(self) -> None:
        """Take components out of use that hold less than a cell of the training part; a query prunes none."""
        if self.is_mapped_:
            return
        shares = self._shares_of(self.train_indices)
        keep = self.module.is_active.cpu() & torch.from_numpy(shares.sum(0) >= 1)
        if keep.any():
            self.module.prune(keep)

    def _note_usage(self) -> None:
        shares = self._shares_of(self.train_indices)[:, self.module.is_active.cpu().numpy()]
        if not np.isfinite(shares).all():
            raise DeltaviError("Training has diverged: responsibilities are not finite. Try a smaller learning rate.")
        self.usage_ = Usage.of(torch.from_numpy(shares))

    # -- collapse --------------------------------------------------------------------------------------------

    def _has_collapsed(self) -> bool:
        n_labels, n = self.module.n_labels, self.module.n_components
        return self.usage_ is not None and n > 1 and n_labels < n and self.usage_.effective_number < COLLAPSED

    def _collapse(self) -> str:
        assert self.usage_ is not None
        n = self.module.n_components
        return f"The mixture has collapsed: {self.usage_.effective_number:.1f} of {n} components are used."

    # -- files -----------------------------------------------------------------------------------------------

    def _extra_state(self) -> dict[str, Any]:
        usage = {} if self.usage_ is None else {"usage": list(self.usage_.shares)}
        dropped = {"labels_dropped": self.module.labels_dropped}
        return {**super()._extra_state(), **usage, **dropped}

    def _restore_extra_state(self, extra: dict[str, Any]) -> None:
        super()._restore_extra_state(extra)
        self.usage_ = Usage(tuple(extra["usage"])) if "usage" in extra else None
        self.module.labels_dropped = extra.get("labels_dropped", False)


def _warn(message: str) -> None:
    warnings.warn(message, MixtureWarning, stacklevel=4)
