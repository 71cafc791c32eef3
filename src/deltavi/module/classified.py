"""Output of a classifier for each cell, and the interface of modules that have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scvi.module.base import BaseModuleClass
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Classified:
    """Output of a classifier for the cells of a mini-batch, without randomness.

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
    """A module that predicts labels; a subclass defines all of these.

    Attributes
    ----------
    n_labels
        Number of labels.
    n_latent
        Width of the position in which classes are compact.
    """

    n_labels: int
    n_latent: int
    # metrics that the plan logs beside those of every module
    extra_metrics: ClassVar[tuple[str, ...]] = ("classification_loss", "accuracy")

    def classifier_input(self, tensors: dict[str, Tensor]) -> Tensor:
        """Expression as the classifier takes it, ``(n_cells, n_genes)``."""
        raise NotImplementedError

    def class_logits(self, expression: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Logits of every label ``(n_cells, n_labels)`` from the output of :meth:`classifier_input`."""
        raise NotImplementedError

    def classify(self, tensors: dict[str, Tensor]) -> Classified:
        """Classify the cells of a mini-batch."""
        raise NotImplementedError
