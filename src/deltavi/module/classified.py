"""What a module says about the label of each cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scvi.module.base import BaseModuleClass
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
    reconstruction_error
        ``(n_cells, 2)`` negative log likelihood of the cell's counts at its position, in nats, and log of its total;
        ``None`` where nothing is reconstructed.
    """

    logits: Tensor
    features: Tensor
    reconstruction_error: Tensor | None


class ClassifyingModule(BaseModuleClass):
    """A module that names cells; a subclass gives all that is asked for here.

    Attributes
    ----------
    n_labels
        Labels to tell apart.
    n_latent
        Width of the position in which classes are compact.
    """

    n_labels: int
    n_latent: int
    # what the plan logs of it beside what every module has
    extra_metrics: ClassVar[tuple[str, ...]] = ("classification_loss", "accuracy")

    def classifier_input(self, tensors: dict[str, Tensor]) -> Tensor:
        """Expression as the classifier takes it, ``(n_cells, n_genes)``."""
        raise NotImplementedError

    def class_logits(self, expression: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Logits of every label ``(n_cells, n_labels)`` from what :meth:`classifier_input` gives."""
        raise NotImplementedError

    def classify(self, tensors: dict[str, Tensor]) -> Classified:
        """Answer for the cells of a mini-batch."""
        raise NotImplementedError
