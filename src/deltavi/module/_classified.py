"""What a module says about the label of each cell."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Classified:
    """Answer of a classifier for the cells of a mini-batch; no random number enters it.

    Parameters
    ----------
    logits
        ``(n_cells, n_labels)`` unnormalised log probabilities.
    features
        ``(n_cells, n_features)`` position in which classes are compact.
    surprise
        ``(n_cells, 2)`` negative log likelihood of the cell's counts at its position, in nats, and log of its total;
        ``None`` where nothing is reconstructed.
    """

    logits: Tensor
    features: Tensor
    surprise: Tensor | None
