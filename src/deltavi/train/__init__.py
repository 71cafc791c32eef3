"""Training: plans and splits over scvi-tools' trainer."""

from deltavi.train._folds import FoldSplitter, assign_folds
from deltavi.train._given import given_split, indexing_parts, require_labels, whole_batches
from deltavi.train._last_good import LastGoodEpoch, ModuleState, joined_history
from deltavi.train._launch import Launch, launch_of, share_options
from deltavi.train._mixed import MixedBatches, MixedSplitter
from deltavi.train._plan import SMALLEST_BATCH, CellSplit, ObjectivePlan, split_cells
from deltavi.train._ranks import (
    ALONE,
    Ranks,
    differences,
    digest,
    first_message,
    gathered,
    lost_process,
    present_ranks,
    same,
    send_state,
    wait_for_all,
)
from deltavi.train._shared_training import SharedTraining
from deltavi.train._stratified import split_labelled

__all__ = [
    "ALONE",
    "SMALLEST_BATCH",
    "CellSplit",
    "FoldSplitter",
    "LastGoodEpoch",
    "Launch",
    "MixedBatches",
    "MixedSplitter",
    "ModuleState",
    "ObjectivePlan",
    "Ranks",
    "SharedTraining",
    "assign_folds",
    "differences",
    "digest",
    "first_message",
    "gathered",
    "given_split",
    "indexing_parts",
    "joined_history",
    "launch_of",
    "lost_process",
    "present_ranks",
    "require_labels",
    "same",
    "send_state",
    "share_options",
    "split_cells",
    "split_labelled",
    "wait_for_all",
    "whole_batches",
]
