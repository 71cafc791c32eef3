"""ACTINN: a multilayer perceptron over normalised expression that names cell types."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.nn import functional as F

from deltavi._errors import DeltaviError
from deltavi.module._classified import Classified
from deltavi.module._decoder import weight_penalty
from deltavi.module._settings import check_sizes

# Total that every cell is scaled to before the logarithm.
TARGET_SUM = 1e4


class ACTINN(BaseModuleClass):  # type: ignore[misc]
    """y <- x: log2(1 + CP10k), a choice of genes, hidden layers, softmax (Ma and Pellegrini 2020).

    The loss is the mean cross entropy plus ``weight_l2 / 2`` times the sum of squared weights; biases are free.

    Parameters
    ----------
    n_input
        Genes.
    n_labels
        Labels to tell apart.
    n_hidden
        Units of each hidden layer; an empty tuple makes it multinomial logistic regression.
    weight_l2
        Multiplier of half the squared weights.
    """

    def __init__(
        self, n_input: int, *, n_labels: int, n_hidden: int | Sequence[int] = (100, 50, 25), weight_l2: float = 0.005
    ) -> None:
        super().__init__()
        n_hidden = (n_hidden,) if isinstance(n_hidden, int) else tuple(n_hidden)
        check_sizes(n_input=n_input, n_labels=n_labels, n_hidden=min(n_hidden, default=1))
        if weight_l2 < 0:
            raise DeltaviError(f"weight_l2 must not be negative, not {weight_l2}.")
        self.n_input, self.n_labels, self.weight_l2 = n_input, n_labels, weight_l2
        sizes = [n_input, *n_hidden]
        self.hidden = nn.Sequential(*(layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.ReLU())))
        self.output = nn.Linear(sizes[-1], n_labels)
        self.n_latent = n_hidden[-1] if len(n_hidden) else n_labels
        for layer in self._linear_layers():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        # what is learned of training cells before the first step, and kept with the weights
        self.register_buffer("gene_mask", torch.ones(n_input))
        self.register_buffer("gene_centre", torch.zeros(n_input))
        self.register_buffer("gene_scale", torch.ones(n_input))
        self.register_buffer("label_weight", torch.ones(n_labels))
        self.register_buffer("size_factor_unit", torch.ones(()))

    def _linear_layers(self) -> list[nn.Linear]:
        return [layer for layer in self.modules() if isinstance(layer, nn.Linear)]

    def choose_genes(self, mask: Tensor) -> None:
        """Read only the genes of `mask` ``(n_input,)``; the weights of the others are set to zero and stay there."""
        self.get_buffer("gene_mask").copy_(mask)
        with torch.no_grad():
            self._linear_layers()[0].weight.mul_(self.get_buffer("gene_mask"))

    def standardise(self, centre: Tensor, scale: Tensor) -> None:
        """Subtract `centre` from log expression and divide by `scale`, both ``(n_input,)``."""
        self.get_buffer("gene_centre").copy_(centre)
        self.get_buffer("gene_scale").copy_(scale)

    # -- the model, top to bottom ----------------------------------------------------------------------------

    def inference(self, expression: Tensor) -> dict[str, Tensor]:
        """Hidden layers over log expression ``(n_cells, n_genes)``."""
        standardised = (expression - self.get_buffer("gene_centre")) / self.get_buffer("gene_scale")
        return {"hidden": self.hidden(standardised * self.get_buffer("gene_mask"))}

    def generative(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits of every label, ``(n_cells, n_labels)``."""
        return {"logits": self.output(hidden)}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Tensor],
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Mean cross entropy, weighted by label, plus the penalty, in nats.

        The cross entropy of each cell is what scvi-tools calls its reconstruction loss; there is no KL term, so
        `kl_weight` changes nothing.
        """
        logits = generative_outputs["logits"]
        codes = tensors[REGISTRY_KEYS.LABELS_KEY].long().squeeze(-1)
        # an unlabelled cell, code -1, would add nothing
        per_cell = F.cross_entropy(
            logits, codes, weight=self.get_buffer("label_weight"), ignore_index=-1, reduction="none"
        )
        accuracy = (logits.argmax(1) == codes).float().mean()
        return LossOutput(
            loss=per_cell.mean() + self.weight_l2 / 2 * weight_penalty(self),
            reconstruction_loss=per_cell,
            extra_metrics={"classification_loss": per_cell.mean().detach(), "accuracy": accuracy},
        )

    # -- classification --------------------------------------------------------------------------------------

    def classifier_input(self, tensors: dict[str, Tensor]) -> Tensor:
        """log2(1 + 1e4 x / total) of every gene, ``(n_cells, n_genes)``; zero for a cell without counts.

        Parameters
        ----------
        tensors
            A mini-batch with raw counts, and size factors where they were registered.
        """
        x = tensors[REGISTRY_KEYS.X_KEY]
        size_factor = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        total = x.sum(1, keepdim=True) if size_factor is None else size_factor * self.get_buffer("size_factor_unit")
        return torch.log2(1 + TARGET_SUM * x / torch.where(total > 0, total, 1.0))

    @auto_move_data  # type: ignore[untyped-decorator]
    def class_logits(self, expression: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Logits ``(n_cells, n_labels)`` from what :meth:`classifier_input` gives.

        Parameters
        ----------
        expression
            ``(n_cells, n_genes)``.
        tensors
            The mini-batch, of which nothing more is used.
        """
        logits: Tensor = self.output(self.inference(expression)["hidden"])
        return logits

    @auto_move_data  # type: ignore[untyped-decorator]
    def classify(self, tensors: dict[str, Tensor]) -> Classified:
        """Logits, and the last hidden layer as features; without hidden layers the logits themselves."""
        hidden = self.inference(self.classifier_input(tensors))["hidden"]
        logits = self.output(hidden)
        return Classified(logits=logits, features=hidden if len(self.hidden) else logits, surprise=None)

    # -- scvi-tools' edge ------------------------------------------------------------------------------------

    def _get_inference_input(self, tensors: dict[str, Tensor], full_forward_pass: bool = False) -> dict[str, Any]:
        return {"expression": self.classifier_input(tensors)}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **_: Any
    ) -> dict[str, Any]:
        return inference_outputs
