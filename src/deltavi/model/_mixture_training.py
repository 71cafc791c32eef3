"""Training of a mixture: placed after a warm-up, pruned, labels dropped, started again if it collapses."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from deltavi import _keys
from deltavi._errors import DeltaviError, MixtureWarning
from deltavi._types import State
from deltavi.latent import Usage
from deltavi.model._asked_module import require_made_with
from deltavi.model._components import over_batches, shares_of
from deltavi.model._label_column import given_of_labels, label_codes, learn_label_frequencies, split_of_labels
from deltavi.model._placement import Positions, placed
from deltavi.model.recipe import Part, Recipe, Stage
from deltavi.train import CellSplit

if TYPE_CHECKING:
    from deltavi.model._mixvi import MIXVI

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


def dimensions_of(model: MIXVI, dimensions: State) -> State:
    """`dimensions` of the module, with the numbers of labels and components."""
    n_labels = dimensions["n_labels"] if model.has_labels else 0
    asked = model._asked_components
    if asked is None:
        n_free = FREE_COMPONENTS if n_labels else UNLABELLED_COMPONENTS
        # of few cells there are few groups
        asked = n_labels + min(n_free, max(n_labels == 0, model.summary_stats.n_cells // FEWEST_CELLS))
    return {**dimensions, "n_labels": n_labels, "n_components": asked}


def train_mixture(model: MIXVI, train: Callable[..., None], max_epochs: int | None, kwargs: State) -> None:
    """Train by `train`, and once more with another seed where the mixture has collapsed."""
    require_made_with(model, kwargs.get("datamodule"))
    starts_here = not (model.is_trained_ or model.is_mapped_)
    initial = copy.deepcopy(model.module.state_dict()) if starts_here else None
    train(max_epochs, **kwargs)
    if initial is None or not _restarts(model):
        return
    # of several processes one warns
    if model.trainer.is_global_zero:
        warn_of_mixture(collapse_of(model) + " Training starts again with another seed.")
    model.module.load_state_dict(initial)
    model.is_trained_, model.history_ = False, None
    seed = kwargs.get("seed")
    train(max_epochs, **{**kwargs, "seed": 1 + (model.seed if seed is None else seed)})
    if has_collapsed(model) and model.trainer.is_global_zero:
        warn_of_mixture(collapse_of(model) + " The cells may be of one kind; or train longer, or with another seed.")


def _restarts(model: MIXVI) -> bool:
    """True if the mixture has collapsed; of several processes the first decides."""
    return bool(model.trainer.strategy.broadcast(has_collapsed(model)))


def _order(model: MIXVI, seed: int) -> State:
    return {"sampling_seed": seed, **({} if model.has_labels else {"repeated_share": 0.0})}


def _begin(model: MIXVI, split: CellSplit) -> None:
    if model.is_trained_ or model.is_mapped_:
        return
    if model.module.n_components > len(split.train):
        raise DeltaviError(
            f"{model.module.n_components} components are more than the {len(split.train)} training cells: ask for "
            "fewer with n_components."
        )
    model.module.get_buffer("n_cells").fill_(len(split.train))
    model.module.is_placed = model.module.labels_dropped = False
    if model.has_labels:
        learn_label_frequencies(model, model.module, split)


def _placed_from(model: MIXVI, max_epochs: int) -> int:
    return math.floor(float(model.prior_warmup) * max_epochs)


def _drop_start(model: MIXVI, max_epochs: int) -> int | None:
    placed_from, share = _placed_from(model, max_epochs), model.drop_labels_after
    # labels are not let go before components lie on them
    return None if share is None else max(placed_from + 1, math.ceil(share * max_epochs))


def _is_unplaced(model: MIXVI) -> bool:
    return not model.module.is_placed


def _place(model: MIXVI, split: CellSplit) -> None:
    _place_components(model, np.sort(split.train))


def _drop(model: MIXVI, split: CellSplit) -> None:
    model.module.labels_dropped = True


def _place_components(model: MIXVI, cells: np.ndarray) -> None:
    """Put named components where their labelled cells lie, and free ones where there are clusters."""
    module, was_training = model.module, model.module.training
    placement = placed(
        _cell_positions(model, cells), n_labels=module.n_labels, n_components=module.n_components, seed=model.seed
    )
    means, variances, offsets = (
        torch.from_numpy(values).float() for values in (placement.means, placement.variances, placement.offsets)
    )
    module.mixture.place(means, variances, offsets if module.conditional else None)
    module.prune(torch.from_numpy(placement.has_cells))
    module.is_placed = True
    module.train(was_training)


def _cell_positions(model: MIXVI, cells: np.ndarray) -> Positions:
    """Posteriors of some of the model's cells, their labels, and their conditions where components move with it."""
    n_latent = model.module.n_latent
    both = over_batches(model, model.module.latent_moments, model.adata, cells, 2 * n_latent)
    groups = np.ones((len(cells), 1))
    if model.module.conditional:
        conditions = np.asarray(model.adata_manager.get_from_registry(_keys.CONDITION)).ravel().astype(int)
        groups = np.eye(model.module.n_conditions)[conditions[cells]]
    codes = label_codes(model)[cells] if model.has_labels else np.full(len(cells), -1)
    return Positions(both[:, :n_latent], both[:, n_latent:], codes, groups)


def _settle(model: MIXVI) -> None:
    """Place components where training ended before, and take those without cells out of use."""
    if not model.module.is_placed:
        _place_components(model, np.sort(model.train_indices))
        warn_of_mixture(
            "Training ended before components were placed: they lie on clusters, and were not trained themselves."
        )
    _prune_empty(model)


def _fit(model: MIXVI) -> None:
    _note_usage(model)
    nats = float(model.get_kl_per_dimension().filter(like="w ").sum()) if model.module.n_w else SILENT_W
    if nats < SILENT_W:
        warn_of_mixture(
            f"w says {nats:.2g} nats about a cell, next to nothing: predictions by the route 'w' hold one profile "
            "per component. A larger free_bits_w keeps it alive."
        )


def _prune_empty(model: MIXVI) -> None:
    """Take components out of use that hold less than a cell of the training part; a query prunes none."""
    if model.is_mapped_:
        return
    shares = shares_of(model, model.train_indices)
    keep = model.module.is_active.cpu() & torch.from_numpy(shares.sum(0) >= 1)
    if keep.any():
        model.module.prune(keep)


def _note_usage(model: MIXVI) -> None:
    shares = shares_of(model, model.train_indices)[:, model.module.is_active.cpu().numpy()]
    if not np.isfinite(shares).all():
        raise DeltaviError("Training has diverged: responsibilities are not finite. Try a smaller learning rate.")
    model.usage_ = Usage.of(torch.from_numpy(shares))


def has_collapsed(model: MIXVI) -> bool:
    n_labels, n = model.module.n_labels, model.module.n_components
    return model.usage_ is not None and n > 1 and n_labels < n and model.usage_.effective_number < COLLAPSED


def collapse_of(model: MIXVI) -> str:
    assert model.usage_ is not None
    n = model.module.n_components
    return f"The mixture has collapsed: {model.usage_.effective_number:.1f} of {n} components are used."


def _saved(model: MIXVI) -> State:
    usage = {} if model.usage_ is None else {"usage": list(model.usage_.shares)}
    dropped = {"labels_dropped": model.module.labels_dropped}
    return {**usage, **dropped}


def _restore(model: MIXVI, extra: State) -> None:
    model.usage_ = Usage(tuple(extra["usage"])) if "usage" in extra else None
    model.module.labels_dropped = extra.get("labels_dropped", False)


def warn_of_mixture(message: str) -> None:
    """Warn of a mixture that is not what was asked for."""
    warnings.warn(message, MixtureWarning, stacklevel=4)


RECIPE: Recipe[MIXVI] = Recipe(
    split=split_of_labels,
    given=given_of_labels,
    order=_order,
    begin=_begin,
    stages=(Stage(_placed_from, _place, _is_unplaced), Stage(_drop_start, _drop, _is_unplaced)),
)


# before means and calibration, which rest on the components in use
SETTLED: Part[MIXVI] = Part("usage_", fit=_settle)
USAGE: Part[MIXVI] = Part("usage_", fit=_fit, saved=_saved, restore=_restore)
