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
        ``(n_cells,)`` how badly the cell is reconstructed, nats per count; ``None`` where nothing is.
    """

    logits: Tensor
    features: Tensor
    surprise: Tensor | None
