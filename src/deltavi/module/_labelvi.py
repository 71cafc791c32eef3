"""LABELVI: a count VAE whose latent space is explained by a label and a basal state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module import Classifier
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor
from torch.nn import functional as F

from deltavi import _keys
from deltavi._compat import MODULE_KEYS
from deltavi._errors import DeltaviError
from deltavi.latent import LabelHierarchy, LabelWeights, label_kl, label_weights, log_density
from deltavi.likelihood import Dispersion, Likelihood
from deltavi.module._classified import Classified
from deltavi.module._decoder import weight_penalty
from deltavi.module._vae import VAE

LabelPrior = Literal["uniform", "empirical", "learned"]
EncoderInput = Literal["log1p", "log1p_cp10k"]
# Counts that every cell is scaled to where the encoder takes relative expression.
CP10K = 1e4


class LABELVI(VAE):
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
    classification_weight
        Weight of the mean cross entropy over labelled cells, beside the mean negative bound over all cells. On the
        scale of sums over cells it is alpha = weight x (cells / labelled cells).
    class_balance
        How much rare labels count in the cross entropy: 0 as often as they occur, 1 all alike; in between, label y
        weighs frequency^(1 - class_balance).
    logit_adjustment
        Multiplier of log frequencies added to the logits in training only (Menon et al. 2021).
    classifier_layers
        Hidden layers of q(y | z1); zero makes it linear.
    encoder_input
        ``"log1p"`` of counts as in scVI, or ``"log1p_cp10k"``, which does not change with sequencing depth; the total
        is the size factor where one is registered.
    size_factor_unit
        Counts that a size factor of one stands for.
    n_hidden, dropout_rate, **kwargs
        As in :class:`deltavi.module.VAE`.
    """

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
        size_factor_unit: float = 1.0,
        n_hidden: int = 128,
        dropout_rate: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_input, n_labels=n_labels, n_hidden=n_hidden, dropout_rate=dropout_rate, **kwargs)
        _check_label_settings(y_prior, encoder_input, classification_weight, class_balance, kwargs)
        self.y_prior, self.encoder_input = y_prior, encoder_input
        self.classification_weight, self.class_balance = classification_weight, class_balance
        self.logit_adjustment, self.size_factor_unit = logit_adjustment, size_factor_unit
        # batch normalisation would remember the mixture of labels in training batches, which is not that of a query
        self.classifier = Classifier(
            self.n_latent,
            n_hidden=n_hidden,
            n_labels=n_labels,
            n_layers=classifier_layers,
            dropout_rate=dropout_rate,
            logits=True,
            use_batch_norm=False,
        )
        # no dropout here: q(z2 | z1, y) sees few dimensions and all cells
        self.labels = LabelHierarchy(self.n_latent, n_labels, n_hidden=n_hidden, learn_prior=y_prior == "learned")
        self.register_buffer("label_frequencies", torch.full((n_labels,), 1.0 / n_labels))

    def set_label_frequencies(self, counts: Tensor) -> None:
        """Tell the module how often each label occurs among labelled training cells, ``(n_labels,)``."""
        smoothed = (counts.float() + 1) / (counts.float() + 1).sum()
        self.get_buffer("label_frequencies").copy_(smoothed)
        if self.y_prior != "uniform":
            self.labels.set_prior(smoothed)

    # -- the model, top to bottom ----------------------------------------------------------------------------

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Negative bound, mean over cells, plus the weighted cross entropy of labelled cells, in nats.

        `kl_weight` anneals the terms of z1, y and z2; that of the library size stays, as in scVI. Cells that were
        drawn again for their label enter the cross entropy only.
        """
        once = first_draws(tensors)
        code = tensors[REGISTRY_KEYS.LABELS_KEY]
        z1 = inference_outputs[MODULE_KEYS.Z_KEY]
        logits = self.classifier(z1)
        weights = label_weights(logits[..., once, :], code[once])
        kl = self._label_terms(z1[..., once, :], inference_outputs[MODULE_KEYS.QZ_KEY], once, weights)
        reconstruction = self._reconstruction(tensors[REGISTRY_KEYS.X_KEY][once], generative_outputs, weights)
        kl_library = inference_outputs["kl"].get("l")
        kl_library = torch.zeros_like(kl["z1"]) if kl_library is None else kl_library[once]
        bound = reconstruction + kl_weight * sum(kl.values()) + kl_library
        cross_entropy, accuracy = self._cross_entropy(logits, code)
        penalty = self.weight_l2 * weight_penalty(self) if self.weight_l2 > 0 else 0.0
        return LossOutput(
            loss=bound.mean() + self.classification_weight * cross_entropy + penalty,
            reconstruction_loss=reconstruction,
            kl_local={
                MODULE_KEYS.KL_L_KEY: kl_library,
                **{f"kl_divergence_{name}": value for name, value in kl.items()},
            },
            extra_metrics={"classification_loss": cross_entropy.detach(), "accuracy": accuracy},
        )

    def _label_terms(self, z1: Tensor, posterior: Any, once: Tensor, weights: LabelWeights) -> dict[str, Tensor]:
        """Terms of z1, y and z2 of each cell, averaged over samples, ``(n_cells,)``."""
        of_cells = type(posterior)(posterior.loc[once], posterior.scale[once], validate_args=False)
        kl = label_kl(self.labels.terms(z1), weights, self.labels.log_prior, log_density(of_cells, z1))
        return {name: value.mean(0) if value.dim() > 1 else value for name, value in kl.items()}

    def _reconstruction(self, x: Tensor, generative_outputs: dict[str, Any], weights: LabelWeights) -> Tensor:
        """-E log p(x | z1, l), and over y where the dispersion depends on it, ``(n_cells,)``."""
        likelihood = generative_outputs["likelihood"]
        if self.dispersion == "gene-label" and self.px_r is not None:
            log_prob = (weights.values.movedim(-1, 0) * self._for_every_label(likelihood).log_prob(x)).sum(0)
        else:
            log_prob = likelihood.log_prob(x)
        return -(log_prob.mean(0) if log_prob.dim() > 1 else log_prob)

    def _for_every_label(self, likelihood: Likelihood) -> Likelihood:
        """The likelihood with a leading label axis, each label with its own dispersion."""
        assert self.px_r is not None
        leading = (1,) * (likelihood.rate.dim() - 1)
        values = self.px_r.T.exp().view(self.n_labels, *leading, -1)
        return replace(likelihood, dispersion=Dispersion(values=values))  # type: ignore[type-var]

    def _cross_entropy(self, logits: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Stratified cross entropy over labelled cells, and the share of them that is right.

        The mean within each label that is present, weighted by what the label counts: which labels a mini-batch
        happens to hold, or was made to hold, does not change what is estimated.
        """
        code = code.long().squeeze(-1)
        known = code >= 0
        if not known.any():
            return logits.sum() * 0.0, torch.zeros((), device=logits.device)
        logits, code = logits[..., known, :], code[known]
        log_frequencies = self.get_buffer("label_frequencies").log()
        adjusted = logits + self.logit_adjustment * log_frequencies
        per_cell = -adjusted.log_softmax(-1).gather(-1, code.expand(adjusted.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        per_cell = per_cell.mean(0) if per_cell.dim() > 1 else per_cell
        right = (logits.argmax(-1) == code).float().mean()
        members = F.one_hot(code, self.n_labels).to(per_cell.dtype)
        n_members = members.sum(0)
        counts_for = (n_members > 0) * ((1 - self.class_balance) * log_frequencies).exp()
        means = (members * per_cell.unsqueeze(-1)).sum(0) / n_members.clamp_min(1)
        return (counts_for * means).sum() / counts_for.sum(), right

    # -- classification --------------------------------------------------------------------------------------

    def classifier_input(self, tensors: dict[str, Tensor]) -> Tensor:
        """Log expression that the encoder takes, ``(n_cells, n_genes)``."""
        return self._expression(tensors[REGISTRY_KEYS.X_KEY], tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))

    @auto_move_data  # type: ignore[untyped-decorator]
    def class_logits(self, expression: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Logits of q(y | z1) at the posterior mean of z1, ``(n_cells, n_labels)``.

        Parameters
        ----------
        expression
            ``(n_cells, n_genes)`` as :meth:`classifier_input` gives it.
        tensors
            The mini-batch: batch and covariates of each cell.
        """
        encoder_input, covariates = self._encoder_input(expression, **self._shared_input(tensors))
        logits: Tensor = self.classifier(self.z_encoder(encoder_input, *covariates).posterior.loc)
        return logits

    @auto_move_data  # type: ignore[untyped-decorator]
    def classify(self, tensors: dict[str, Tensor]) -> Classified:
        """Logits and position at the posterior mean, and how badly the cell is reconstructed from there."""
        inference = self.inference(**self._get_inference_input(tensors))
        mean = inference[MODULE_KEYS.QZ_KEY].loc
        inference[MODULE_KEYS.Z_KEY] = mean
        if inference[MODULE_KEYS.QL_KEY] is not None:
            inference[MODULE_KEYS.LIBRARY_KEY] = inference[MODULE_KEYS.QL_KEY].loc
        # a label that happens to be known must not make a cell look more ordinary than one without
        unlabelled = {**tensors, REGISTRY_KEYS.LABELS_KEY: torch.full_like(tensors[REGISTRY_KEYS.LABELS_KEY], -1)}
        likelihood = self.generative(**self._get_generative_input(unlabelled, inference))["likelihood"]
        x = tensors[REGISTRY_KEYS.X_KEY]
        surprise = torch.stack([-likelihood.log_prob(x), x.sum(-1).clamp_min(1.0).log()], dim=-1)
        return Classified(logits=self.classifier(mean), features=mean, surprise=surprise)

    # -- parts -----------------------------------------------------------------------------------------------

    def _expression(self, x: Tensor, size_factor: Tensor | None) -> Tensor:
        if self.encoder_input == "log1p" or not self.log_variational:
            return super()._expression(x, size_factor)
        total = x.sum(-1, keepdim=True) if size_factor is None else size_factor * self.size_factor_unit
        return (x * (CP10K / torch.where(total > 0, total, 1.0))).log1p()

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        once = first_draws(tensors)
        whole = super()._get_generative_input(tensors, inference_outputs, **kwargs)
        if bool(once.all()):
            return whole
        return {name: None if value is None else value[..., once, :] for name, value in whole.items()}

    def _log_ratio_of_z(self, likelihood: Likelihood, x: Tensor, z: Tensor, posterior: Any) -> Tensor:
        if self.dispersion == "gene-label" and self.px_r is not None:
            log_joint = self.labels.log_marginal(z, self._for_every_label(likelihood).log_prob(x))
        else:
            log_joint = likelihood.log_prob(x) + self.labels.log_marginal(z)
        return log_joint - log_density(posterior, z)


def first_draws(tensors: dict[str, Tensor]) -> Tensor:
    """Which rows of a mini-batch are cells on their regular turn, ``(n_cells,)`` bool; the rest is drawn again."""
    again = tensors.get(_keys.DRAWN_AGAIN)
    if again is None:
        x = tensors[REGISTRY_KEYS.X_KEY]
        return torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
    return again.squeeze(-1) == 0


def _check_label_settings(
    y_prior: str, encoder_input: str, classification_weight: float, class_balance: float, kwargs: dict[str, Any]
) -> None:
    if y_prior not in ("uniform", "empirical", "learned"):
        raise DeltaviError(f"y_prior must be 'uniform', 'empirical' or 'learned', not {y_prior!r}.")
    if encoder_input not in ("log1p", "log1p_cp10k"):
        raise DeltaviError(f"encoder_input must be 'log1p' or 'log1p_cp10k', not {encoder_input!r}.")
    if classification_weight < 0:
        raise DeltaviError(f"classification_weight must not be negative, not {classification_weight}.")
    if not 0 <= class_balance <= 1:
        raise DeltaviError(f"class_balance must lie in [0, 1], not {class_balance}.")
    if kwargs.get("posterior", "gaussian") != "gaussian":
        raise DeltaviError("LABELVI needs a Gaussian posterior of z1: its bound contains log q(z1 | x).")
