"""ACTINN: an ensemble of multilayer perceptrons that predicts cell types from normalised expression."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor, nn
from torch.nn import functional as F

from deltavi import _keys
from deltavi._cp10k import CP10K, cp10k_totals_of
from deltavi._reading import reads
from deltavi._types import Outputs
from deltavi.module.classified import Classified, ClassifyingModule
from deltavi.module.decoder import weight_penalty
from deltavi.module.readers import READERS_OF_ACTINN

# Total that every cell is scaled to before the logarithm.


class Network(nn.Module):
    """Hidden layers with rectifiers, and an output layer; Glorot's uniform weights.

    Parameters
    ----------
    sizes
        Units of every layer, input and output included.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        *hidden, _ = sizes
        self.hidden = nn.Sequential(*(layer for n, m in pairwise(hidden) for layer in (nn.Linear(n, m), nn.ReLU())))
        self.output = nn.Linear(sizes[-2], sizes[-1])
        for layer in self.linear_layers():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def linear_layers(self) -> list[nn.Linear]:
        """Layers with weights, from input to output."""
        return [layer for layer in self.modules() if isinstance(layer, nn.Linear)]


class ACTINN(ClassifyingModule):
    """y <- x: log2(1 + CP10k), a choice of genes, hidden layers, softmax (Ma and Pellegrini 2020), as an ensemble.

    The networks are trained on the same mini-batches, each without the cells of its own fold, and the prediction is
    the mean of their logits. The loss is the mean over networks of the mean cross entropy plus ``weight_l2 / 2`` times
    the sum of squared weights; biases are not penalised.

    Parameters
    ----------
    n_input
        Genes.
    n_labels
        Number of labels.
    n_hidden
        Units of each hidden layer; an empty tuple makes it multinomial logistic regression.
    n_networks
        Networks of the committee; one is the published model.
    weight_l2
        Multiplier of half the squared weights.
    """

    @reads(READERS_OF_ACTINN)
    def __init__(
        self,
        n_input: int,
        *,
        n_labels: int,
        n_hidden: int | Sequence[int] = (100,),
        n_networks: int = 5,
        weight_l2: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_input, self.n_labels = n_input, n_labels
        sizes = [n_input, *((n_hidden,) if isinstance(n_hidden, int) else n_hidden), n_labels]
        self.networks = nn.ModuleList(Network(sizes) for _ in range(n_networks))
        self.n_latent = n_labels
        # computed from training cells before the first step, and saved with the weights
        self.register_buffer("gene_mask", torch.ones(n_input))
        self.register_buffer("gene_centre", torch.zeros(n_input))
        self.register_buffer("gene_scale", torch.ones(n_input))
        self.register_buffer("label_weight", torch.ones(n_labels))
        self.register_buffer("size_factor_unit", torch.ones(()))
        self.register_buffer("weight_l2", torch.tensor(float(weight_l2)))

    @property
    def committee(self) -> list[Network]:
        """The networks."""
        return [network for network in self.networks if isinstance(network, Network)]

    def choose_genes(self, mask: Tensor) -> None:
        """Read only the genes of `mask` ``(n_input,)``; the weights of the others are set to zero and stay zero."""
        self.get_buffer("gene_mask").copy_(mask)
        with torch.no_grad():
            for network in self.committee:
                network.linear_layers()[0].weight.mul_(self.get_buffer("gene_mask"))

    def standardise(self, centre: Tensor, scale: Tensor) -> None:
        """Subtract `centre` from log expression and divide by `scale`, both ``(n_input,)``."""
        self.get_buffer("gene_centre").copy_(centre)
        self.get_buffer("gene_scale").copy_(scale)

    # -- the model, top to bottom ----------------------------------------------------------------------------

    def inference(self, expression: Tensor) -> dict[str, Tensor]:
        """Last hidden layers ``(n_networks, n_cells, n_units)`` over log expression ``(n_cells, n_genes)``."""
        standardised = (expression - self.get_buffer("gene_centre")) / self.get_buffer("gene_scale")
        read = standardised * self.get_buffer("gene_mask")
        return {"hidden": torch.stack([network.hidden(read) for network in self.committee])}

    def generative(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits of every network and label, ``(n_networks, n_cells, n_labels)``."""
        pairs = zip(self.committee, hidden, strict=True)
        return {"logits": torch.stack([network.output(units) for network, units in pairs])}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Tensor],
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Mean cross entropy, weighted by label, plus the penalty, in nats; both averaged over networks.

        The cross entropy of each cell, of the networks trained on it, takes the place of scvi-tools' reconstruction
        loss; there is no KL term, so that `kl_weight` has no effect.
        """
        logits = generative_outputs["logits"]
        codes = tensors[REGISTRY_KEYS.LABELS_KEY].long().squeeze(-1)
        learns = self._learns(tensors, codes).to(logits.dtype)
        weight = self.get_buffer("label_weight").to(logits.dtype)[codes.clamp_min(0)]
        losses = weight * F.cross_entropy(
            logits.movedim(-1, 1), codes.expand(logits.shape[:2]), ignore_index=-1, reduction="none"
        )
        # a network that is trained on none of the cells has no cross entropy
        of_networks = (learns * losses).sum(1) / learns.sum(1).clamp_min(1)
        penalty = self.get_buffer("weight_l2") / 2 * weight_penalty(self) / len(self.networks)
        accuracy = (logits.mean(0).argmax(1) == codes).to(logits.dtype).mean()
        return LossOutput(
            loss=of_networks.mean() + penalty,
            reconstruction_loss=(learns * losses).sum(0) / learns.sum(0).clamp_min(1),
            extra_metrics={"classification_loss": of_networks.mean().detach(), "accuracy": accuracy},
        )

    def _learns(self, tensors: dict[str, Tensor], codes: Tensor) -> Tensor:
        """Mask of the cells each network is trained on: labelled ones outside of its fold."""
        fold = tensors.get(_keys.FOLD)
        own = torch.full_like(codes, -1) if fold is None else fold.long().squeeze(-1)
        networks = torch.arange(len(self.networks), device=codes.device).unsqueeze(1)
        return (networks != own) & (codes >= 0)

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
        return torch.log2(1 + CP10K * x / cp10k_totals_of(total))

    @auto_move_data
    def class_logits(self, expression: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Logits ``(n_cells, n_labels)`` from what :meth:`classifier_input` gives.

        Parameters
        ----------
        expression
            ``(n_cells, n_genes)``.
        tensors
            The mini-batch, of which nothing more is used.
        """
        logits: Tensor = self.generative(**self.inference(expression))["logits"].mean(0)
        return logits

    @auto_move_data
    def classify(self, tensors: dict[str, Tensor]) -> Classified:
        """Mean logits, and the same centred in each cell as features.

        For cells with a fold, the logits are those of the network that was not trained on them.
        """
        of_networks = self.generative(**self.inference(self.classifier_input(tensors)))["logits"]
        logits = of_networks.mean(0)
        # hidden units vary in many directions that are unrelated to the labels, and hide novel cells
        features = logits - logits.mean(1, keepdim=True)
        if _keys.FOLD in tensors:
            fold = tensors[_keys.FOLD].long().squeeze(-1)
            apart = of_networks[fold.clamp_min(0), torch.arange(len(fold), device=fold.device)]
            logits = torch.where((fold >= 0).unsqueeze(1), apart, logits)
        return Classified(logits=logits, features=features, reconstruction_error=None)

    # -- scvi-tools' edge ------------------------------------------------------------------------------------

    def _get_inference_input(self, tensors: dict[str, Tensor], **_: object) -> Outputs:
        return {"expression": self.classifier_input(tensors)}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **_: object
    ) -> Outputs:
        return inference_outputs
