"""Every AnnData and registry key that deltavi writes, in one place."""

from __future__ import annotations

# registry (tensors handed to modules)
CONDITION = "condition"
DRAWN_AGAIN = "drawn_again"
FOLD = "fold"
NONZERO = "nonzero"
NONZERO_COUNT = "nonzero_count"
LOG_FACTORIAL = "log_factorial"

# obs of a predicted AnnData
OBS_SOURCE_CONDITION = "deltavi_source_condition"
OBS_SOURCE_CELL = "deltavi_source_cell"
# True of predicted cells, False of control cells beside them
OBS_PREDICTED = "deltavi_predicted"
# condition that cells without the column come from
NO_SOURCE = "unknown"

# layers of a predicted AnnData
LAYER_RATE = "rate"
LAYER_COUNTS = "counts"
LAYER_LOWER = "lower"
LAYER_UPPER = "upper"

# obsm of a predicted AnnData
OBSM_LATENT_BEFORE = "X_deltavi_control"
OBSM_LATENT_AFTER = "X_deltavi"

# uns of a predicted AnnData
UNS_PREDICTION = "deltavi"

# obs of an AnnData of attributions
OBS_EXPLAINED_LABEL = "deltavi_label"
OBS_COMPLETENESS_GAP = "deltavi_completeness_gap"

# uns of an AnnData with a selection of genes: the obs column of totals over all genes
UNS_TOTALS = "deltavi_total_counts"

# uns of an AnnData of attributions
UNS_ATTRIBUTION = "deltavi"
UNS_DIFFERENTIAL = "differential_response"

# var of a prediction of all genes: those that the networks decode, and those of the table of responses
VAR_IN_MODEL = "in_model"
VAR_IN_RESPONSES = "in_responses"

# label of a cell that is rejected as none of the known ones, or has no counts
UNASSIGNED = "unassigned"
# varm of a prediction: change of the mean of each gene in each label, and its interval
VARM_CHANGE = "deltavi_change"
VARM_LOWER = "deltavi_lower"
VARM_UPPER = "deltavi_upper"
