"""Preparation of cells: several files as one, variable genes, log1p CP10k, names of conditions, usable cells."""

from deltavi.pp.concat import concat_lazy
from deltavi.pp.prepare import highly_variable_genes, log_normalise
from deltavi.registry.conditions import canonical_conditions
from deltavi.registry.valid_cells import valid_cells

__all__ = ["canonical_conditions", "concat_lazy", "highly_variable_genes", "log_normalise", "valid_cells"]
