"""The split that ``train`` is asked for: by shares, or of the user's own."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np

from deltavi._errors import DeltaviError, LabelWarning, examples
from deltavi._types import State
from deltavi.train import CellSplit, given_split, indexing_parts, require_labels, whole_batches

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

logger = logging.getLogger("deltavi")
DEFAULT_TRAIN_SIZE = 0.9


def asked_split(
    model: CountModel,
    loading: State,
    *,
    shares: State,
    parts: State,
    batch_size: int,
    seed: int,
    world: int = 1,
) -> tuple[CellSplit, int]:
    """Cells to train, validate and test on, and the size of mini-batches that goes with them.

    Parameters
    ----------
    model
        Model to train.
    loading
        Arguments of the data splitter, from which those of the split are taken out.
    shares
        ``train_size`` and ``validation_size``, or ``None``.
    parts
        ``train_indices`` and ``validation_indices``, or ``None``.
    batch_size
        Cells of a mini-batch; with a split of the user's own it may grow by a few.
    seed
        Seed of a random split.
    world
        Processes with a mini-batch each, among which the cells are dealt out.

    Raises
    ------
    DeltaviError
        If there are two splits, or the one there is makes no sense.
    """
    listed = loading.pop("external_indexing", None)
    shuffle = loading.pop("shuffle_set_split", True)
    in_loading = {name: loading.pop(name, None) for name in shares}
    shares = {name: in_loading[name] if value is None else value for name, value in shares.items()}
    ways = {
        "shares": [name for name, value in shares.items() if value is not None],
        "positions": [name for name, value in parts.items() if value is not None],
        "a list": ["external_indexing"] if listed is not None else [],
    }
    if sum(map(bool, ways.values())) > 1:
        named = [name for names in ways.values() for name in names]
        raise DeltaviError(f"{examples(named)} are several ways to split the cells: pass one of them.")
    if ways["positions"] or ways["a list"]:
        split = given_split(model.adata.n_obs, **(parts if listed is None else indexing_parts(listed)))
        split = model.recipe.given(model, split)
        # where cells are dealt out, one or two that are left join the mini-batch before
        return split, _fitting(len(split.train), batch_size) if world == 1 else batch_size
    if shares["train_size"] is None:
        shares["train_size"] = DEFAULT_TRAIN_SIZE
    generator = np.random.default_rng(seed)
    shares["batch_size"] = batch_size * world
    return model.recipe.split(model, **shares, generator=generator, shuffle=shuffle), batch_size


def labelled_split(split: CellSplit, codes: np.ndarray, label_names: np.ndarray) -> CellSplit:
    """`split` itself, with a warning of labels that no training cell has; an error where these are too few.

    Parameters
    ----------
    split
        The user's split.
    codes
        ``(n_cells,)`` label of each cell, -1 where it is unknown.
    label_names
        Label of each code.
    """
    lacking = require_labels(codes, split, label_names)
    if lacking:
        warnings.warn(
            f"The training cells of the split have no cell of {examples(lacking)}: the model cannot learn to "
            "recognise what it does not see.",
            LabelWarning,
            stacklevel=5,
        )
    return split


def only_labelled(split: CellSplit, codes: np.ndarray) -> CellSplit:
    """`split` with unlabelled cells among those for testing, for a model that learns nothing from them."""
    unlabelled = np.concatenate([cells[codes[cells] < 0] for cells in (split.train, split.validation)])
    if len(unlabelled):
        logger.info("%d cells of the split have no label; they are for testing.", len(unlabelled))
    train, validation = (cells[codes[cells] >= 0] for cells in (split.train, split.validation))
    return CellSplit(train, validation, np.concatenate([split.test, unlabelled]))


def _fitting(n_train: int, batch_size: int) -> int:
    fitting = whole_batches(n_train, batch_size)
    if fitting != batch_size:
        logger.info("batch_size=%d: with %d the last mini-batch would have one or two cells.", fitting, batch_size)
    return fitting
