"""Base of count VAEs with labels: their input, their cross entropy, and their classifier."""

from __future__ import annotations

from typing import Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor
from torch.nn import functional as F

from deltavi import _keys
from deltavi._compat import MODULE_KEYS
from deltavi._cp10k import log1p_cp10k_of
from deltavi._entries import init_keywords, known_keywords
from deltavi._errors import DeltaviError
from deltavi._reading import reads
from deltavi._types import Cells, Outputs
from deltavi.latent import GaussianState
from deltavi.module._vae import VAE
from deltavi.module.classified import Classified, ClassifyingModule
from deltavi.module.decoder import weight_penalty
from deltavi.module.readers import READERS

EncoderInput = Literal["log1p", "log1p_cp10k"]
ALL = slice(None)


class LabelledVAE(ClassifyingModule, VAE):
    """Count VAE that also predicts labels; a subclass defines ``logits_of`` and its loss.

    Parameters
    ----------
    n_input
        Genes.
    n_labels
        Labels.
    classification_weight
        Weight of the mean cross entropy over labelled cells, beside the mean negative bound over all cells. On the
        scale of sums over cells it is alpha = weight x (cells / labelled cells).
    class_balance
        Weight of rare labels in the cross entropy: 0 by frequency, 1 the same for all; in between, label y
        weighs frequency^(1 - class_balance).
    logit_adjustment
        Multiplier of log frequencies added to the logits in training only (Menon et al. 2021).
    encoder_input
        ``"log1p"`` of counts as in scVI, or ``"log1p_cp10k"``, which does not change with sequencing depth; the total
        is the size factor where one is registered.
    size_factor_unit
        Counts that a size factor of one stands for.
    **kwargs
        As in :class:`deltavi.module.VAE`.
    """

    @reads(READERS)
    def __init__(
        self,
        n_input: int,
        *,
        n_labels: int,
        classification_weight: float,
        class_balance: float,
        logit_adjustment: float,
        encoder_input: EncoderInput,
        size_factor_unit: float = 1.0,
        **kwargs: Any,
    ) -> None:
        known_keywords(kwargs, init_keywords(type(self)), among=f"deltavi.module.{type(self).__name__}")
        super().__init__(n_input, n_labels=n_labels, **kwargs)
        if kwargs.get("posterior", "gaussian") != "gaussian":
            raise DeltaviError(f"{type(self).__name__} needs a Gaussian posterior: its bound contains its density.")
        if kwargs.get("prior", "normal") != "normal":
            raise DeltaviError(f"{type(self).__name__} has a prior of its own: pass prior='normal', or choose VAE.")
        self.encoder_input = encoder_input
        self.classification_weight, self.class_balance = classification_weight, class_balance
        self.logit_adjustment, self.size_factor_unit = logit_adjustment, size_factor_unit
        self.register_buffer("label_frequencies", torch.full((max(n_labels, 1),), 1.0 / max(n_labels, 1)))

    def set_label_frequencies(self, counts: Tensor) -> None:
        """Set the number of labelled training cells of each label, ``(n_labels,)``."""
        self.get_buffer("label_frequencies").copy_((counts.float() + 1) / (counts.float() + 1).sum())

    def logits_of(
        self, z: Tensor, encoder_input: Tensor, covariates: tuple[Tensor, ...], tensors: dict[str, Tensor]
    ) -> Tensor:
        """Logits of every label at latent positions, ``(n_cells, n_labels)``.

        Parameters
        ----------
        z
            ``(n_cells, n_latent)`` posterior means.
        encoder_input, covariates
            Input of their encoder.
        tensors
            The mini-batch: batch, condition and covariates of each cell.
        """
        raise NotImplementedError

    # -- parts of the loss --------------------------------------------------------------------------------------

    def _cross_entropy(self, logits: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Stratified cross entropy over labelled cells, and the share of them that is right.

        The mean within each label that is present, by the weight of the label, so that the estimand does not depend on
        the labels that a mini-batch holds.
        """
        code = code.long().squeeze(-1)
        n_samples, n_classes = logits.shape[:-2].numel(), logits.shape[-1]
        n_members = torch.bincount(code + 1, minlength=n_classes + 1)[1:]
        log_frequencies = self._log_frequencies(n_classes)
        counts_for = (n_members > 0) * ((1 - self.class_balance) * log_frequencies).exp()
        # without any labelled cell the sum is empty, and zero
        weight = counts_for / (n_members.clamp_min(1) * counts_for.sum().clamp_min(torch.finfo(logits.dtype).tiny))
        adjusted = logits if self.logit_adjustment == 0 else logits + self.logit_adjustment * log_frequencies
        total = F.cross_entropy(
            adjusted.reshape(-1, n_classes),
            code.expand(logits.shape[:-1]).reshape(-1),
            weight=weight.to(adjusted.dtype),
            ignore_index=-1,
            reduction="sum",
        )
        is_right = (logits.argmax(-1) == code).sum()
        return total / n_samples, is_right / (n_samples * n_members.sum().clamp_min(1))

    def _log_frequencies(self, n_classes: int) -> Tensor:
        """Log frequency of every class; one beyond the labels is as frequent as the rarest of them."""
        known = self.get_buffer("label_frequencies").log()
        return known if n_classes == len(known) else torch.cat([known, known.min().expand(n_classes - len(known))])

    @staticmethod
    def _kl_library(inference_outputs: Outputs, first: Cells) -> Tensor:
        """KL of a learned library size of cells on their regular turn, else zero, ``(n_cells,)``."""
        kl: Tensor | None = inference_outputs["kl"].get("l")
        if kl is not None:
            return kl[first]
        z: Tensor = inference_outputs[MODULE_KEYS.Z_KEY][..., first, :]
        return torch.zeros(z.shape[-2], dtype=z.dtype, device=z.device)

    def _loss_output(
        self,
        reconstruction: Tensor,
        kl: dict[str, Tensor],
        kl_library: Tensor,
        classified: tuple[Tensor, Tensor],
        *,
        kl_weight: Tensor | float,
    ) -> LossOutput:
        """Negative bound, mean over cells, plus the weighted cross entropy and penalties.

        `reconstruction`, every term of `kl` and `kl_library` are ``(n_cells,)`` nats; `classified` is cross entropy
        and accuracy.
        """
        cross_entropy, accuracy = classified
        bound = reconstruction + kl_weight * sum(kl.values()) + kl_library
        return LossOutput(
            loss=bound.mean() + self.classification_weight * cross_entropy + self._penalties(),
            reconstruction_loss=reconstruction,
            kl_local={
                MODULE_KEYS.KL_L_KEY: kl_library,
                **{f"kl_divergence_{name}": value for name, value in kl.items()},
            },
            extra_metrics={"classification_loss": cross_entropy.detach(), "accuracy": accuracy},
        )

    def _penalties(self) -> Tensor | float:
        return self.weight_l2 * weight_penalty(self) if self.weight_l2 > 0 else 0.0

    # -- classification --------------------------------------------------------------------------------------

    def classifier_input(self, tensors: dict[str, Tensor]) -> Tensor:
        """Log expression that the encoder takes, ``(n_cells, n_genes)``."""
        return self.encoded_expression(tensors)

    @auto_move_data
    def class_logits(self, expression: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Logits of every label at the posterior mean of the latent position, ``(n_cells, n_labels)``.

        Parameters
        ----------
        expression
            ``(n_cells, n_genes)`` as :meth:`classifier_input` gives it.
        tensors
            The mini-batch: batch and covariates of each cell.
        """
        encoder_input, covariates = self._encoder_input(expression, **self._shared_input(tensors))
        mean = self.z_encoder(encoder_input, *covariates).posterior.loc
        return self.logits_of(mean, encoder_input, covariates, tensors)

    @auto_move_data
    def classify(self, tensors: dict[str, Tensor]) -> Classified:
        """Logits and position at the posterior mean, and the reconstruction error of the cell from there."""
        x, shared = tensors[REGISTRY_KEYS.X_KEY], self._shared_input(tensors)
        encoder_input, covariates = self._encoder_input(self.classifier_input(tensors), **shared)
        mean = self.z_encoder(encoder_input, *covariates).posterior.loc
        size_factor, batch = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY), tensors[REGISTRY_KEYS.BATCH_KEY]
        library = self._library(x, size_factor, encoder_input, batch, covariates, 1)
        known = library.posterior.loc if isinstance(library, GaussianState) else library
        at = {MODULE_KEYS.Z_KEY: mean, MODULE_KEYS.LIBRARY_KEY: known}
        # a cell's known label must not lower its reconstruction error
        unlabelled = {**tensors, REGISTRY_KEYS.LABELS_KEY: torch.full_like(tensors[REGISTRY_KEYS.BATCH_KEY], -1)}
        likelihood = self.generative(**self._get_generative_input(unlabelled, at))["likelihood"]
        reconstruction_error = torch.stack(
            [-self._log_prob(likelihood, tensors), x.sum(-1).clamp_min(1.0).log()], dim=-1
        )
        logits = self.logits_of(mean, encoder_input, covariates, tensors)
        return Classified(logits=logits, features=mean, reconstruction_error=reconstruction_error)

    # -- parts -----------------------------------------------------------------------------------------------

    def _expression(self, x: Tensor, size_factor: Tensor | None) -> Tensor:
        if self.encoder_input == "log1p" or not self.log_variational:
            return super()._expression(x, size_factor)
        total = x.sum(-1, keepdim=True) if size_factor is None else size_factor * self.size_factor_unit
        return log1p_cp10k_of(x, total)

    def _get_generative_input(self, tensors: dict[str, Tensor], inference_outputs: Outputs, **kwargs: Any) -> Outputs:
        first = first_draws(tensors)
        whole = super()._get_generative_input(tensors, inference_outputs, **kwargs)
        if first is ALL:
            return whole
        return {name: None if value is None else value[..., first, :] for name, value in whole.items()}


def first_draws(tensors: dict[str, Tensor]) -> Cells:
    """Rows of a mini-batch on their regular turn; the others are repeated draws, which loaders put behind them."""
    again = tensors.get(_keys.DRAWN_AGAIN)
    if again is None:
        return ALL
    regular = again.squeeze(-1) == 0
    n_first = int(regular.sum())
    if n_first == len(regular):
        return ALL
    # to cut takes less time than to gather
    return slice(n_first) if bool(regular[:n_first].all()) else regular
