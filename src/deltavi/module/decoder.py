"""Decoder from a latent position to the parameters of a likelihood, shared by all models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from scvi.nn import FCLayers
from torch import Tensor, nn

from deltavi.latent import Architecture, hidden_layers, linear_layer, run_layers
from deltavi.likelihood import (
    Bernoulli,
    Dispersion,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    rows_with_average,
)

GeneLikelihood = Literal["zinb", "nb", "poisson", "normal", "bernoulli"]
DispersionKind = Literal["gene", "gene-batch", "gene-label", "gene-cell", "shared", "fixed"]
ScaleActivation = Literal["softmax", "softmax_rest", "softplus", "exp", "linear"]


# Share given to a gene without any count, so that its logit is finite.
SMALLEST_SHARE = 1e-7


class Exp(nn.Module):
    """Exponential, bounded so that an extrapolated latent position cannot overflow."""

    MAX_LOG = 30.0

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_max(self.MAX_LOG).exp()


class SoftmaxRest(nn.Module):
    """Shares of a library of which the modelled genes are a part: softmax with a last class of logit zero, left out."""

    def forward(self, x: Tensor) -> Tensor:
        rest = torch.zeros_like(x[..., :1])
        return torch.softmax(torch.cat([x, rest], dim=-1), dim=-1)[..., :-1]


SCALE_ACTIVATIONS: dict[str, nn.Module] = {
    "softmax": nn.Softmax(dim=-1),
    "softmax_rest": SoftmaxRest(),
    "softplus": nn.Softplus(),
    "exp": Exp(),
    "linear": nn.Identity(),
}


@dataclass(frozen=True, eq=False)
class Decoded:
    """Raw outputs of a decoder.

    Parameters
    ----------
    scale
        ``([n_samples,] n_cells, n_genes)`` expression before the library size.
    dropout_logits, log_dispersion
        Same shape, where the likelihood needs them; otherwise ``None``.
    """

    scale: Tensor
    dropout_logits: Tensor | None
    log_dispersion: Tensor | None


class Decoder(nn.Module):
    """Decode a latent position with its covariates; only the heads that are used exist.

    Parameters
    ----------
    n_input
        Latent dimensions, and continuous covariates.
    n_genes
        Genes to decode.
    architecture
        Hidden layers; none makes the decoder linear.
    covariates
        Number of categories of every decoded covariate.
    activation
        Activation that turns the last layer into expression.
    with_dropout, with_dispersion
        True if the likelihood needs dropout logits, or a dispersion per cell and gene.
    """

    def __init__(
        self,
        n_input: int,
        n_genes: int,
        *,
        architecture: Architecture,
        covariates: tuple[int, ...],
        activation: ScaleActivation,
        with_dropout: bool,
        with_dispersion: bool,
    ) -> None:
        super().__init__()
        self.px_decoder = hidden_layers(n_input, architecture, covariates)
        head = linear_layer(n_input, n_genes, architecture=architecture, covariates=covariates)
        # a list of two, so that parameters carry the names scvi-tools gives them
        self.px_scale_decoder = nn.ModuleList([head(), SCALE_ACTIVATIONS[activation]])
        self.px_r_decoder = head() if with_dispersion else None
        self.px_dropout_decoder = head() if with_dropout else None

    def forward(self, z: Tensor, *covariates: Tensor) -> Decoded:
        hidden = z if self.px_decoder is None else run_layers(self.px_decoder, z, covariates)
        linear, activation = self.px_scale_decoder
        return Decoded(
            scale=activation(run_layers(linear, hidden, covariates)),
            dropout_logits=self._optional(self.px_dropout_decoder, hidden, covariates),
            log_dispersion=self._optional(self.px_r_decoder, hidden, covariates),
        )

    def start_at(self, shares: Tensor) -> None:
        """Set the bias of the expression head so that decoding starts at the mean share of every gene.

        Parameters
        ----------
        shares
            ``(n_genes,)`` mean share of the library of each gene; with ``"softmax_rest"`` they sum to less than one.
        """
        head, activation = self.px_scale_decoder
        layer: Any = head.fc_layers[0][0] if isinstance(head, FCLayers) else head
        logits = shares.clamp_min(SMALLEST_SHARE).log()
        if isinstance(activation, SoftmaxRest):
            logits = logits - (1 - shares.sum()).clamp_min(SMALLEST_SHARE).log()
        with torch.no_grad():
            layer.bias.copy_(logits)

    @staticmethod
    def _optional(head: nn.Module | None, hidden: Tensor, covariates: tuple[Tensor, ...]) -> Tensor | None:
        return None if head is None else run_layers(head, hidden, covariates)


def initial_log_dispersion(
    kind: DispersionKind | None, n_genes: int, n_batch: int, n_labels: int
) -> nn.Parameter | None:
    """Parameter table of log dispersions, in scvi-tools' orientation; none if it is absent or decoded."""
    shapes: dict[str | None, tuple[int, ...]] = {
        "gene": (n_genes,),
        "shared": (1,),
        "gene-batch": (n_genes, n_batch),
        "gene-label": (n_genes, n_labels),
    }
    return nn.Parameter(torch.randn(shapes[kind])) if kind in shapes else None


def dispersion_rows(
    kind: DispersionKind, table: Tensor | None, decoded: Decoded, *, batch: Tensor, label: Tensor
) -> Dispersion:
    """Dispersion of each cell as rows of the parameter table, or as decoded per cell."""
    if kind == "gene-cell":
        assert decoded.log_dispersion is not None
        return Dispersion(values=decoded.log_dispersion.exp())
    assert table is not None
    if kind in ("gene", "shared"):
        return Dispersion(values=table.exp())
    return rows_with_average(table, batch if kind == "gene-batch" else label)


def build_likelihood(
    kind: GeneLikelihood, decoded: Decoded, library: Tensor | None, dispersion: Dispersion | None
) -> Likelihood:
    """Likelihood of the decoded parameters at log library size `library` ``([n_samples,] n_cells, 1)``."""
    if kind == "bernoulli":
        return Bernoulli(logits=decoded.scale)
    rate = decoded.scale if library is None else library.exp() * decoded.scale
    if kind == "poisson":
        return Poisson(rate=rate, scale=decoded.scale)
    assert dispersion is not None
    if kind == "nb":
        return NegativeBinomial(rate=rate, dispersion=dispersion, scale=decoded.scale)
    if kind == "zinb":
        assert decoded.dropout_logits is not None
        return ZeroInflatedNegativeBinomial(
            rate=rate, dispersion=dispersion, dropout_logits=decoded.dropout_logits, scale=decoded.scale
        )
    return Gaussian(rate=rate, dispersion=dispersion, scale=None if library is None else decoded.scale)


def weight_penalty(module: nn.Module) -> Tensor:
    """Sum of squared weights of every linear map (biases and normalisation are not penalised)."""
    squares = [layer.weight.square().sum() for layer in module.modules() if isinstance(layer, nn.Linear)]
    return torch.stack(squares).sum()
