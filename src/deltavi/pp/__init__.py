"""Preparation of cells: variable genes, log1p CP10k, canonical names of conditions, usable cells."""

from deltavi.pp.prepare import highly_variable_genes, log_normalise
from deltavi.registry.conditions import canonical_conditions
from deltavi.registry.valid_cells import valid_cells

__all__ = ["canonical_conditions", "highly_variable_genes", "log_normalise", "valid_cells"]
