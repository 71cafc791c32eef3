"""Data: simulated experiments with known truth, a public experiment, gene selection, and names of conditions."""

from deltavi.data._conditions import canonical_conditions
from deltavi.data._kang import kang
from deltavi.data._prepare import log_normalise, select_genes
from deltavi.data._simulate import simulate_perturbation
from deltavi.data._valid_cells import valid_cells

__all__ = ["canonical_conditions", "kang", "log_normalise", "select_genes", "simulate_perturbation", "valid_cells"]
