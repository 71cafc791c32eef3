"""Data: simulated experiments with known truth, a public experiment, and gene selection."""

from deltavi.data._checks import valid_cells
from deltavi.data._kang import kang
from deltavi.data._prepare import log_normalise, select_genes
from deltavi.data._simulate import simulate_perturbation

__all__ = ["kang", "log_normalise", "select_genes", "simulate_perturbation", "valid_cells"]
