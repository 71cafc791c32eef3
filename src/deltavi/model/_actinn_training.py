"""Training of ACTINN: on labelled cells only, dealt out in folds that each network but one learns from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi._cp10k import cp10k_factors
from deltavi._errors import DeltaviError
from deltavi._types import State
from deltavi.annotation import ClassifiedCells, informative_genes
from deltavi.model._asked_split import labelled_split, only_labelled
from deltavi.model._classification import BATCH_SIZE, classified
from deltavi.model._label_column import label_codes
from deltavi.model.recipe import EPOCHS_RANGE, Part, Recipe
from deltavi.registry.checks import row_blocks
from deltavi.registry.covariates import are_relative
from deltavi.registry.totals import cell_totals
from deltavi.train import CellSplit, assign_folds, split_labelled

if TYPE_CHECKING:
    from deltavi.model._actinn import ACTINN

# Epochs of the published program, and steps below which networks have hardly begun to learn.
DEFAULT_EPOCHS, SMALLEST_STEPS = 50, 1000
# The penalty that predicts best falls about with the root of the number of labelled cells: this over the root.
L2_OF_ONE_CELL = 2.0
# Learning rate at which logistic regression gets near its optimum in as many steps.
REGRESSION_RATE = 1e-2
# Share of the squared mean below which a variance is rounding.
SMALLEST_VARIANCE = 1e-12


def _plan(model: ACTINN) -> State:
    # the default is a rate for networks with hidden layers
    return {**model.default_plan, **({} if len(model.module.committee[0].hidden) else {"lr": REGRESSION_RATE})}


def _epochs(model: ACTINN, batch_size: int) -> int:
    """50 as in the program, and more where labelled cells are so few that these would make few steps."""
    steps_per_epoch = math.ceil(int((label_codes(model) >= 0).sum()) / batch_size)
    return int(np.clip(math.ceil(SMALLEST_STEPS / steps_per_epoch), DEFAULT_EPOCHS, EPOCHS_RANGE[1]))


def _split(model: ACTINN, **options: Any) -> CellSplit:
    """Labelled cells, each label alike; unlabelled ones are in neither training nor validation."""
    codes = label_codes(model)
    labelled = np.flatnonzero(codes >= 0)
    split = split_labelled(codes[labelled], **options)
    return CellSplit(
        train=labelled[split.train],
        validation=labelled[split.validation],
        test=np.concatenate([labelled[split.test], np.flatnonzero(codes < 0)]),
    )


def _given(model: ACTINN, split: CellSplit) -> CellSplit:
    codes = label_codes(model)
    return labelled_split(only_labelled(split, codes), codes, model.label_names)


def _order(model: ACTINN, seed: int) -> State:
    return {"folds": folds_of(model), "sampling_seed": seed}


def folds_of(model: ACTINN) -> np.ndarray:
    """Fold of each of the model's cells; a cell that was in none before is in none, and every network learns it."""
    names = model.adata.obs_names.astype(str)
    if model.folds_ is None:
        return np.full(len(names), -1)
    if names.equals(model.folds_.index):
        return model.folds_.to_numpy()
    known = model.folds_[~model.folds_.index.duplicated(keep=False)]
    found = known.index.get_indexer(names)
    return np.where(found >= 0, known.to_numpy()[found], -1) if len(known) else found


def _begin(model: ACTINN, split: CellSplit) -> None:
    """Deal out folds, choose genes and penalty, learn scaling and label weights; further training keeps them."""
    if model.is_trained_:
        return
    codes = label_codes(model)
    # all labelled cells have a fold, so that another split of them leaves no cell to the network it taught
    folds = assign_folds(
        codes, len(model.module.networks), np.random.default_rng([model.seed, 1]), training=split.train
    )
    model.folds_ = pd.Series(folds, index=model.adata.obs_names.astype(str))
    cells = np.sort(split.train)
    if model.chooses_penalty:
        model.module.get_buffer("weight_l2").fill_(L2_OF_ONE_CELL / math.sqrt(len(cells)))
    matrix = model.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    totals = _totals(model, matrix, cells)
    if model.filter_genes or model.scale:
        mean, sd = log_moments(matrix, cells, totals)
        if model.filter_genes:
            model.module.choose_genes(torch.from_numpy(_chosen(mean, sd)))
        if model.scale:
            model.module.standardise(torch.from_numpy(mean), torch.from_numpy(np.where(sd > 0, sd, 1.0)))
    if model.class_weight == "balanced":
        n = np.bincount(codes[cells], minlength=len(model.label_names))
        model.module.get_buffer("label_weight").copy_(torch.from_numpy(len(cells) / (len(n) * np.maximum(n, 1))))


def answers_without_own_fold(model: ACTINN, training: np.ndarray, held_out: np.ndarray) -> ClassifiedCells | None:
    """Training cells with the logits of the network that did not see them, and held-out cells in the same way."""
    folds = folds_of(model)
    apart = np.concatenate([training[folds[training] >= 0], held_out])
    if not (folds[apart] >= 0).any():
        return None
    return classified(model, None, apart, BATCH_SIZE, folds=folds[apart])[1]


def _saved(model: ACTINN) -> State:
    if model.folds_ is None:
        return {}
    in_folds = model.folds_[model.folds_ >= 0]
    folds = {"cells": in_folds.index.tolist(), "folds": in_folds.to_numpy()}
    return {"folds": folds}


def _restore(model: ACTINN, extra: State) -> None:
    if "folds" in extra:
        saved = extra["folds"]
        model.folds_ = pd.Series(np.asarray(saved["folds"]), index=pd.Index(saved["cells"], dtype=object))


def _totals(model: ACTINN, matrix: Any, cells: np.ndarray) -> np.ndarray:
    """Total of each cell of the model, of which only those of `cells` are used, ``(n_cells,)``."""
    counted = cell_totals(matrix)
    key = model._setup_argument("size_factor_key")
    if key is None:
        return counted
    given = np.asarray(model.adata.obs[key], dtype=np.float64)
    if are_relative(given[cells], counted[cells]):
        # as if their mean were the mean total; kept, so that a query is read in the same unit. Cells without a
        # label are no training cells, and may be on another scale
        model.module.get_buffer("size_factor_unit").fill_(counted[cells].mean() / given[cells].mean())
    return given * float(model.module.get_buffer("size_factor_unit"))


RECIPE: Recipe[ACTINN] = Recipe(plan=_plan, epochs=_epochs, split=_split, given=_given, order=_order, begin=_begin)
FOLDS: Part[ACTINN] = Part("folds_", fit=None, saved=_saved, restore=_restore)


def log_moments(matrix: Any, cells: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log2(1 + 1e4 x / total) over cells, both ``(n_genes,)``.

    Parameters
    ----------
    matrix
        ``(n_all, n_genes)`` counts, dense, sparse or backed; a block of rows is in memory at a time.
    cells
        Positions of the cells to use.
    totals
        ``(n_all,)`` total of every cell; cells without counts have log expression zero.
    """
    sums, squares = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1])
    for rows, block in row_blocks(matrix, cells):
        scaled = sparse.diags(cp10k_factors(totals[rows])) @ sparse.csr_matrix(block, dtype=np.float64)
        scaled.data = np.log2(1 + scaled.data)
        sums += np.asarray(scaled.sum(0)).ravel()
        squares += np.asarray(scaled.power(2).sum(0)).ravel()
    mean = sums / len(cells)
    variance = squares / len(cells) - mean**2
    # of a gene that is the same in all cells rounding leaves a variance, by which scaling would blow up a query
    return mean, np.sqrt(np.where(variance > SMALLEST_VARIANCE * mean**2, variance, 0.0))


def _chosen(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    mask = informative_genes(mean, sd)
    if not mask.any():
        raise DeltaviError(
            f"The gene filter leaves none of {len(mean)} genes ({int((mean > 0).sum())} of them expressed in labelled "
            "training cells): with so few, pass filter_genes=False."
        )
    return mask
