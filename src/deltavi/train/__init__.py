"""Training: plans and splits over scvi-tools' trainer."""

from deltavi.train._plan import CellSplit, ObjectivePlan, split_cells

__all__ = ["CellSplit", "ObjectivePlan", "split_cells"]
