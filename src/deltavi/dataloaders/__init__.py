"""Data modules of Lightning: cells in mini-batches for the models of scvi-tools, and for those of this package."""

from deltavi.dataloaders._module import CellsDataModule

__all__ = ["CellsDataModule"]
