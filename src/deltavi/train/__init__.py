"""Training: plans and splits over scvi-tools' trainer."""

from deltavi.train._folds import FoldSplitter, assign_folds
from deltavi.train._given import given_split, indexing_parts, require_labels, whole_batches
from deltavi.train._last_good import LastGoodEpoch, ModuleState, joined_history
from deltavi.train._mixed import MixedBatches, MixedSplitter
from deltavi.train._plan import CellSplit, ObjectivePlan, split_cells
from deltavi.train._stratified import split_labelled

__all__ = [
    "CellSplit",
    "FoldSplitter",
    "LastGoodEpoch",
    "MixedBatches",
    "MixedSplitter",
    "ModuleState",
    "ObjectivePlan",
    "assign_folds",
    "given_split",
    "indexing_parts",
    "joined_history",
    "require_labels",
    "split_cells",
    "split_labelled",
    "whole_batches",
]
