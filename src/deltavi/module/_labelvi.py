"""LABELVI: a count VAE whose latent space is explained by a label and a basal state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from scvi import REGISTRY_KEYS
from scvi.module import Classifier
from scvi.module.base import LossOutput
from torch import Tensor
from torch.distributions import Normal

from deltavi._compat import MODULE_KEYS
from deltavi._entries import choice
from deltavi._reading import reads
from deltavi._types import Cells, Outputs
from deltavi.latent import LabelHierarchy, LabelWeights, label_weights, log_density
from deltavi.likelihood import Dispersion, Likelihood
from deltavi.module.labelled_vae import EncoderInput, LabelledVAE, first_draws
from deltavi.module.readers import READERS

LabelPrior = Literal["uniform", "empirical", "learned"]


class LABELVI(LabelledVAE):
    """x <- (z1, l), z1 <- (z2, y): counts, a latent state, and a label with a basal state behind it.

    p(z2) p(y) p(z1 | z2, y) p(l) p(x | z1, l) with q(z1 | x) q(l | x) q(y | z1) q(z2 | z1, y). Sums over y are exact.
    Cells with and without a label share a mini-batch: the bound of a labelled cell is that of an unlabelled one with
    q(y | z1) replaced by its label.

    Parameters
    ----------
    n_input
        Genes.
    n_labels
        Labels.
    y_prior
        p(y): ``"uniform"``, ``"empirical"`` (frequencies among labelled training cells) or ``"learned"``.
    classifier_layers
        Hidden layers of q(y | z1); zero makes it linear.
    classification_weight
        Weight of the mean cross entropy over labelled cells, beside the mean negative bound over all cells. On the
        scale of sums over cells it is alpha = weight x (cells / labelled cells).
    class_balance
        How much rare labels count in the cross entropy: 0 as often as they occur, 1 all alike; in between, label y
        weighs frequency^(1 - class_balance).
    logit_adjustment
        Multiplier of log frequencies added to the logits in training only (Menon et al. 2021).
    encoder_input
        ``"log1p"`` of counts as in scVI, or ``"log1p_cp10k"``, which does not change with sequencing depth; the total
        is the size factor where one is registered.
    n_hidden, dropout_rate, **kwargs
        As in :class:`deltavi.module.VAE`; ``size_factor_unit``, the counts that a size factor of one stands for.
    """

    @reads(READERS)
    def __init__(
        self,
        n_input: int,
        *,
        n_labels: int,
        y_prior: LabelPrior = "empirical",
        classification_weight: float = 50.0,
        class_balance: float = 0.0,
        logit_adjustment: float = 0.0,
        classifier_layers: int = 0,
        encoder_input: EncoderInput = "log1p_cp10k",
        n_hidden: int = 128,
        dropout_rate: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            n_input,
            n_labels=n_labels,
            classification_weight=classification_weight,
            class_balance=class_balance,
            logit_adjustment=logit_adjustment,
            encoder_input=encoder_input,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            **kwargs,
        )
        choice("y_prior", y_prior, ("uniform", "empirical", "learned"))
        self.y_prior = y_prior
        # batch normalisation would depend on the shares of labels in training, which differ from those of a query
        self.classifier = Classifier(
            self.n_latent,
            n_hidden=n_hidden,
            n_labels=n_labels,
            n_layers=classifier_layers,
            dropout_rate=dropout_rate,
            logits=True,
            use_batch_norm=False,
        )
        # no dropout here: q(z2 | z1, y) has few inputs and is trained on all cells
        self.labels = LabelHierarchy(self.n_latent, n_labels, n_hidden=n_hidden, learn_prior=y_prior == "learned")

    def set_label_frequencies(self, counts: Tensor) -> None:
        """Set the number of labelled training cells of each label, ``(n_labels,)``."""
        super().set_label_frequencies(counts)
        if self.y_prior != "uniform":
            self.labels.set_prior(self.get_buffer("label_frequencies"))

    def logits_of(
        self, z: Tensor, encoder_input: Tensor, covariates: tuple[Tensor, ...], tensors: dict[str, Tensor]
    ) -> Tensor:
        """Logits of q(y | z1) at `z`, ``(n_cells, n_labels)``; nothing else is used."""
        logits: Tensor = self.classifier(z)
        return logits

    # -- the model, top to bottom ----------------------------------------------------------------------------

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: Outputs,
        generative_outputs: Outputs,
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Negative bound, mean over cells, plus the weighted cross entropy of labelled cells, in nats.

        `kl_weight` anneals the terms of z1, y and z2; that of the library size stays, as in scVI. Cells that were
        drawn again for their label enter the cross entropy only.
        """
        first = first_draws(tensors)
        code = tensors[REGISTRY_KEYS.LABELS_KEY]
        z1 = inference_outputs[MODULE_KEYS.Z_KEY]
        logits = self.classifier(z1)
        weights = label_weights(logits[..., first, :], code[first])
        kl = self._label_terms(z1[..., first, :], inference_outputs[MODULE_KEYS.QZ_KEY], first, weights, code[first])
        reconstruction = self._reconstruction(tensors, first, generative_outputs["likelihood"], weights)
        return self._loss_output(
            reconstruction,
            kl,
            self._kl_library(inference_outputs, first),
            self._cross_entropy(logits, code),
            kl_weight=kl_weight,
        )

    def _label_terms(
        self, z1: Tensor, posterior: Normal, first: Cells, weights: LabelWeights, code: Tensor
    ) -> dict[str, Tensor]:
        """Terms of z1, y and z2 of each cell, averaged over samples, ``(n_cells,)``."""
        of_cells = type(posterior)(posterior.loc[first], posterior.scale[first], validate_args=False)
        kl = self.labels.kl(z1, weights, code, log_posterior_z1=log_density(of_cells, z1))
        return {name: value.mean(0) if value.dim() > 1 else value for name, value in kl.items()}

    def _reconstruction(
        self, tensors: dict[str, Tensor], first: Cells, likelihood: Likelihood, weights: LabelWeights
    ) -> Tensor:
        """-E log p(x | z1, l), and over y where the dispersion depends on it, ``(n_cells,)``."""
        if self.dispersion == "gene-label" and self.px_r is not None:
            per_label = self._log_prob(self._for_every_label(likelihood), tensors, first)
            log_prob = (weights.values.movedim(-1, 0) * per_label).sum(0)
        else:
            log_prob = self._log_prob(likelihood, tensors, first)
        return -(log_prob.mean(0) if log_prob.dim() > 1 else log_prob)

    def _for_every_label(self, likelihood: Likelihood) -> Likelihood:
        """The likelihood with a leading label axis, each label with its own dispersion."""
        assert self.px_r is not None
        leading = (1,) * (likelihood.rate.dim() - 1)
        values = self.px_r.T.exp().view(self.n_labels, *leading, -1)
        return replace(likelihood, dispersion=Dispersion(values=values))  # type: ignore[type-var]

    # -- parts -----------------------------------------------------------------------------------------------

    def _log_ratio_of_z(self, likelihood: Likelihood, tensors: dict[str, Tensor], inference_outputs: Outputs) -> Tensor:
        z = inference_outputs[MODULE_KEYS.Z_KEY]
        if self.dispersion == "gene-label" and self.px_r is not None:
            log_joint = self.labels.log_marginal(z, self._log_prob(self._for_every_label(likelihood), tensors))
        else:
            log_joint = self._log_prob(likelihood, tensors) + self.labels.log_marginal(z)
        return log_joint - log_density(inference_outputs[MODULE_KEYS.QZ_KEY], z)
