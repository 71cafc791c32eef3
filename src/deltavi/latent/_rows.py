"""Numbers that networks read of a category: its place among all, or a table of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deltavi._errors import InputDataError
from deltavi.latent._networks import soft_one_hot

# a layer leaves out a covariate of one category, which says nothing
FEWEST_FEATURES = 2


class CategoryRows(nn.Module):
    """Base of the maps from codes of categories to rows that networks read.

    Attributes
    ----------
    width
        Numbers in a row.
    """

    width: int

    def forward(self, code: Tensor) -> Tensor:
        """Rows ``(n_cells, width)`` of codes ``(n_cells, 1)``; the code -1 is the average category."""
        raise NotImplementedError


class OneHotRows(CategoryRows):
    """One-hot rows.

    Parameters
    ----------
    n_categories
        Number of categories.
    """

    def __init__(self, n_categories: int) -> None:
        super().__init__()
        self.width = n_categories

    def forward(self, code: Tensor) -> Tensor:
        """Rows ``(n_cells, n_categories)`` of codes ``(n_cells, 1)``; the code -1 is the average category."""
        return soft_one_hot(code, self.width)


class FeatureRows(CategoryRows):
    """Rows of a table of features, so that categories alike in their features are decoded alike.

    The table is saved with the weights and is not trained. It may hold more rows than there are measured categories:
    the networks can be asked about these, too.

    Parameters
    ----------
    features
        ``(n_categories, n_features)``, at least two features, about zero to one in size; row by row in the order of
        the codes.

    Raises
    ------
    InputDataError
        If the rows differ in length, have fewer than two features, or hold NaN or infinite values.
    """

    table: Tensor

    def __init__(self, features: Sequence[Sequence[float]]) -> None:
        super().__init__()
        widths = {len(row) for row in features}
        if len(widths) != 1 or min(widths) < FEWEST_FEATURES:
            raise InputDataError(
                f"features must be rows of the same length, at least {FEWEST_FEATURES}; lengths are {sorted(widths)}."
            )
        values = np.asarray(features, dtype=np.float32)
        # of the numbers: a module that a file is read into holds tensors without values
        if not np.isfinite(values).all():
            raise InputDataError("features hold NaN or infinite values.")
        table = torch.tensor(values)
        self.width = table.shape[1]
        self.register_buffer("table", torch.cat([table, table.mean(0, keepdim=True)]))

    def forward(self, code: Tensor) -> Tensor:
        """Rows ``(n_cells, n_features)`` of codes ``(n_cells, 1)``; the code -1 is the average of the table."""
        return self.table[code.long().squeeze(-1)]
