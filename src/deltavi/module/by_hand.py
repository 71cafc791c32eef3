"""Loss of the usual VAE of counts with all gradients, as one step of automatic differentiation instead of a hundred.

The arithmetic, its order and its draws are those of the module; a module, an option or a mini-batch that is not
covered here goes the long way. A third of the time of a step passes between the operations of the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from torch import Tensor, nn

from deltavi._compat import MODULE_KEYS
from deltavi._threads import in_parts
from deltavi.kernels import kernels
from deltavi.latent import StandardNormal
from deltavi.latent.gaussian import VARIANCE_FLOOR
from deltavi.likelihood import Nonzeros
from deltavi.likelihood.compiled import SMALLEST_FOR_THREADS, evaluate
from deltavi.module._layers_by_hand import Gradients, HiddenLayer, Ran, back_through, layers_of, linear, linear_slopes
from deltavi.module._vae import VAE

# What the step replaces of a module.
METHODS = frozenset({"forward", "inference", "generative", "loss", "decode"})


@dataclass(frozen=True, eq=False)
class Step:
    """A module whose step is known, with its parts.

    Parameters
    ----------
    module
        The module.
    encoder, decoder
        Hidden layers.
    mean, log_variance, head, dropout
        Linear maps behind them; that of the dropout of counts is missing without zero inflation.
    shares
        Compiled kernels.
    parts, weights
        Everything in the module.
    """

    module: VAE
    encoder: list[HiddenLayer]
    decoder: list[HiddenLayer]
    mean: nn.Linear
    log_variance: nn.Linear
    head: nn.Linear
    dropout: nn.Linear | None
    shares: ModuleType
    parts: tuple[nn.Module, ...]
    weights: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Step | None:
        """Parts of a module; ``None`` if its settings are not covered."""
        # a subclass may define any part of the loss anew, as may an attribute
        if type(module) is not VAE or METHODS & vars(module).keys() or not _is_covered(module):
            return None
        parts, decoder = module.z_encoder, module.decoder
        layers = layers_of(parts.encoder), layers_of(decoder.px_decoder)
        shares, dropout = kernels("shares"), decoder.px_dropout_decoder
        heads = parts.mean_encoder, parts.var_encoder, decoder.px_scale_decoder[0]
        if layers[0] is None or layers[1] is None or shares is None or kernels("counts") is None:
            return None
        linear_heads = [head for head in heads if isinstance(head, nn.Linear)]
        if len(linear_heads) < len(heads) or not (dropout is None or isinstance(dropout, nn.Linear)):
            return None
        mean, log_variance, head = linear_heads
        whole = tuple(module.modules()), tuple(module.parameters())
        return cls(module, layers[0], layers[1], mean, log_variance, head, dropout, shares, *whole)

    def loss(self, tensors: dict[str, Tensor], kl_weight: Tensor | float) -> LossOutput | None:
        """Loss of a mini-batch as ``VAE.forward`` returns it; ``None`` if it has to be computed there.

        Parameters
        ----------
        tensors
            The mini-batch.
        kl_weight
            Weight of the divergence of z.
        """
        if not self._is_plain(tensors[REGISTRY_KEYS.X_KEY]):
            return None
        with torch.no_grad():
            loss, reconstruction, divergence, gradients = self.run(tensors, kl_weight)
        weights = [weight for weight in self.weights if weight.requires_grad]
        known = [gradients[weight] for weight in weights]
        return LossOutput(
            loss=_Differentiated.apply(loss, known, *weights),  # type: ignore[no-untyped-call]
            reconstruction_loss=reconstruction,
            kl_local={MODULE_KEYS.KL_L_KEY: torch.zeros_like(divergence), MODULE_KEYS.KL_Z_KEY: divergence},
        )

    def run(self, tensors: dict[str, Tensor], kl_weight: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Gradients]:
        """Loss, its two parts ``(n_cells,)`` nats, and the gradients of all weights."""
        module, gradients = self.module, Gradients()
        x = tensors[REGISTRY_KEYS.X_KEY]
        nonzeros = Nonzeros.in_batch(tensors)
        encoded = _through(self.encoder, _log1p(x, nonzeros) if module.log_variational else x, [])
        hidden = encoded[-1].output
        mean, exponential = linear(self.mean, hidden), linear(self.log_variance, hidden).exp_()
        variance = exponential + VARIANCE_FLOOR
        scale = variance.sqrt()
        noise = torch.normal(torch.zeros_like(mean), torch.ones_like(mean))
        z = torch.addcmul(mean, noise, scale)
        divergence = 0.5 * (variance + mean.square() - 1 - variance.log()).sum(-1)

        decoded = _through(self.decoder, z, self._covariates(tensors))
        log_library = module.known_library(x, tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))
        assert log_library is not None
        library = log_library.exp_().squeeze(1)
        log_prob, by_hidden = self._decoded(decoded[-1].output, library, nonzeros, gradients)
        loss = (-log_prob + kl_weight * divergence).mean()

        by_z = back_through(decoded, by_hidden, gradients, z.shape[1])
        assert by_z is not None
        weight = kl_weight / len(x)
        by_mean = by_z + weight * mean
        by_variance = 0.5 * (by_z * noise / scale + weight * (1 - variance.reciprocal()))
        by_log = by_variance * exponential
        linear_slopes(self.mean, hidden, by_mean, gradients)
        linear_slopes(self.log_variance, hidden, by_log, gradients)
        by_encoded = (by_mean @ self.mean.weight).addmm_(by_log, self.log_variance.weight)
        back_through(encoded, by_encoded, gradients, None)
        return loss, -log_prob, divergence, gradients

    def _is_plain(self, x: Tensor) -> bool:
        """True for training in single precision on the CPU, with nothing attached that looks into the step."""
        norms = [layer.norm for layer in (*self.encoder, *self.decoder) if layer.norm is not None]
        return (
            self.module.training
            and all(norm.training for norm in norms)
            and torch.is_grad_enabled()
            and not torch.is_anomaly_enabled()
            and not torch.is_autocast_enabled("cpu")
            and kernels("counts") is not None
            and type(x) is Tensor
            and x.layout is torch.strided
            and all(value.dtype is torch.float32 and value.device.type == "cpu" for value in (x, *self.weights))
            and not any(
                part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
                for part in self.parts
            )
        )

    def _decoded(
        self, hidden: Tensor, library: Tensor, nonzeros: Nonzeros, gradients: Gradients
    ) -> tuple[Tensor, Tensor]:
        """Log probability of each cell, and the gradient of minus its mean by the last hidden layer."""
        head, dropout, n_cells = self.head, self.dropout, len(hidden)
        rate = linear(head, hidden)
        self._by_rows(self.shares.rates, [rate], library)
        logits = None if dropout is None else linear(dropout, hidden)
        log_theta = self.module.px_r
        assert log_theta is not None
        theta = log_theta.exp()
        weights = torch.full((n_cells,), -1 / n_cells)
        evaluated = evaluate(rate, theta, logits, nonzeros, weights)
        log_prob, slopes = (None, None) if evaluated is None else evaluated
        if log_prob is None or slopes is None:
            # something is not finite: training ends with the loss
            return torch.full_like(library, torch.nan), self._nothing_known(hidden, gradients)
        gradients[log_theta] = slopes.by_theta * theta
        self._by_rows(self.shares.by_logits, [slopes.by_rate, rate], library)
        linear_slopes(head, hidden, slopes.by_rate, gradients)
        by_hidden = slopes.by_rate @ head.weight
        if dropout is not None and slopes.by_logits is not None:
            linear_slopes(dropout, hidden, slopes.by_logits, gradients)
            by_hidden.addmm_(slopes.by_logits, dropout.weight)
        return log_prob, by_hidden

    def _nothing_known(self, hidden: Tensor, gradients: Gradients) -> Tensor:
        """Gradients of a loss that is not a number."""
        gradients.update((weight, torch.full_like(weight, torch.nan)) for weight in self.weights)
        return torch.full_like(hidden, torch.nan)

    @staticmethod
    def _by_rows(kernel: Callable[..., None], matrices: list[Tensor], library: Tensor) -> None:
        """Run a kernel over cells, in as many threads as torch has."""

        def part(start: int, stop: int) -> None:
            kernel(*(matrix[start:stop].numpy() for matrix in matrices), library[start:stop].numpy())

        in_parts(part, 0, len(library), least=SMALLEST_FOR_THREADS // matrices[0].shape[1])

    def _covariates(self, tensors: dict[str, Tensor]) -> list[Tensor]:
        """Rows of the covariates of the decoder; one of a single category says nothing and is left out."""
        given = self.module._shared_input(tensors)
        rows = self.module._covariates(
            given[MODULE_KEYS.BATCH_INDEX_KEY], given["condition"], given[MODULE_KEYS.CAT_COVS_KEY]
        )
        return [values for values in rows if values.shape[1] > 1]


class _Differentiated(torch.autograd.Function):
    """A loss whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        known, ctx.gradients = ctx.gradients, None
        assert known is not None, "A step that was computed by hand has its gradients once."
        return None, None, *(known if by_loss == 1 else [by_loss * gradient for gradient in known])


def _through(layers: list[HiddenLayer], x: Tensor, covariates: list[Tensor]) -> list[Ran]:
    """Run layers, one after the other."""
    ran: list[Ran] = []
    for layer in layers:
        ran.append(layer.run(ran[-1].output if ran else x, covariates))
    return ran


def _log1p(x: Tensor, nonzeros: Nonzeros) -> Tensor:
    """log(1 + x) by the nonzero counts, one entry in ten."""
    found = torch.zeros_like(x)
    found.view(-1).index_copy_(0, nonzeros.position, nonzeros.count.log1p())
    return found


def _is_covered(module: VAE) -> bool:
    """True for the settings whose step is written down here."""
    decoder = module.decoder
    return (
        module.gene_likelihood in ("nb", "zinb")
        and module.dispersion == "gene"
        and module.library in ("observed", "size_factor")
        and module.scale_activation == "softmax"
        and not module.z_encoder.deterministic
        and type(module.prior) is StandardNormal
        and module.condition_mmd == 0
        and module.weight_l2 == 0
        and module.bias
        and not module.encode_covariates
        and module.n_continuous_cov == 0
        and decoder.px_r_decoder is None
    )
