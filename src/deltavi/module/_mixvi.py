"""MIXVI: a count VAE with a mixture of Gaussians, which components may be labels and may move with a condition."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module import Classifier
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from deltavi import _keys
from deltavi._compat import MODULE_KEYS
from deltavi._errors import DeltaviError, unknown_category
from deltavi.latent import (
    ComponentPriorKind,
    GaussianState,
    LabelWeights,
    LatentTerm,
    MixtureComponents,
    balanced_term,
    check_mixture,
    collapsed_term,
    component_log_joint,
    dirichlet_term,
    gaussian_state,
    label_weights,
    latent_term,
    log_density,
    prior_term,
    soft_one_hot,
    standard_normal_like,
)
from deltavi.likelihood import Likelihood
from deltavi.module._decoder import weight_penalty
from deltavi.module._labelled_vae import EncoderInput, LabelledVAE, first_draws
from deltavi.module._settings import check_sizes

ClassifierKind = Literal["z", "mean", "posterior"]
ALLOWED: dict[str, tuple[str, ...]] = {
    "y_prior": ("collapsed", "dirichlet", "uniform", "balanced", "learned"),
    "w_prior": ("standard", "learned"),
    "z_term": ("closed", "mc"),
    "classifier": ("z", "mean", "posterior"),
}


class MIXVI(LabelledVAE):
    """x <- (z, l, c), z <- (w, y, c): counts, and a latent position in one component of a mixture.

    p(w | c) p(d) p(y | d) p(z | w, y, c) p(l) p(x | z, l, c) with q(z | x) q(w | x) q(y | z) q(d | z). Sums over
    components are exact. A label names a component, and further components are free; the terms of a labelled cell are
    those of its own component.

    Parameters
    ----------
    n_input
        Genes.
    n_components
        Components of the mixture.
    n_labels
        Labels, which name the first components; zero for clustering.
    n_w
        Dimensions of w, which moves components; zero for none.
    conditional
        Let components and decoder depend on the condition.
    y_prior
        ``"collapsed"`` (a Dirichlet per cell, summed out), ``"dirichlet"`` (the same, drawn), ``"uniform"``,
        ``"balanced"`` (components are used alike over a mini-batch) or ``"learned"`` (one p(y) for all cells).
    alpha
        Concentration of the Dirichlet; with ``"learned"`` that of p(y) is 1 + alpha.
    w_prior
        ``"standard"``, which keeps w free of the condition, or ``"learned"``: a Gaussian per condition.
    z_term
        ``"closed"`` or ``"mc"``, see :func:`deltavi.latent.latent_term`.
    classifier
        q(y | z): a network at the drawn z (``"z"``) or at the mean of its posterior (``"mean"``), or the exact
        ``"posterior"`` of the mixture.
    free_bits_w, free_bits_y
        Nats of every dimension of w (mean of a mini-batch), and of y, that cost nothing.
    n_hidden, dropout_rate, classification_weight, class_balance, logit_adjustment, encoder_input, **kwargs
        As in :class:`deltavi.module.LABELVI` and :class:`deltavi.module.VAE`.
    """

    def __init__(
        self,
        n_input: int,
        *,
        n_components: int,
        n_labels: int = 0,
        n_conditions: int = 1,
        n_latent: int = 10,
        n_w: int = 0,
        conditional: bool = False,
        y_prior: ComponentPriorKind = "collapsed",
        alpha: float = 0.1,
        w_prior: Literal["standard", "learned"] = "standard",
        z_term: LatentTerm = "closed",
        classifier: ClassifierKind = "posterior",
        free_bits_w: float = 0.0,
        free_bits_y: float = 0.0,
        n_hidden: int = 128,
        dropout_rate: float = 0.1,
        classification_weight: float = 50.0,
        class_balance: float = 0.0,
        logit_adjustment: float = 0.0,
        encoder_input: EncoderInput = "log1p_cp10k",
        **kwargs: Any,
    ) -> None:
        check_sizes(n_components=n_components)
        check_mixture(n_components=n_components, n_labels=n_labels, alpha=alpha)
        _check_settings(y_prior=y_prior, w_prior=w_prior, z_term=z_term, classifier=classifier)
        _check_w(n_w=n_w, w_prior=w_prior, free_bits_w=free_bits_w)
        if not 0 <= free_bits_y < math.inf:
            raise DeltaviError(f"free_bits_y must not be negative, not {free_bits_y!r}.")
        if kwargs.get("dispersion") == "gene-label":
            raise DeltaviError("MIXVI has no dispersion by label: its components need not be labels.")
        if conditional:
            kwargs = {"condition_in_decoder": True, "encode_covariates": True, **kwargs}
        super().__init__(
            n_input,
            n_labels=n_labels,
            n_conditions=n_conditions,
            n_latent=n_latent,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            classification_weight=classification_weight,
            class_balance=class_balance,
            logit_adjustment=logit_adjustment,
            encoder_input=encoder_input,
            **kwargs,
        )
        self.n_components, self.n_w, self.conditional = n_components, n_w, conditional
        self.n_conditions, self.y_prior, self.w_prior = n_conditions, y_prior, w_prior
        self.z_term, self.classifier_kind = z_term, classifier
        self.free_bits_w, self.free_bits_y = free_bits_w, free_bits_y
        covariates = (n_conditions,) if conditional else ()
        self.mixture = MixtureComponents(n_components, n_latent, n_w=n_w, covariates=covariates)
        if n_w:
            self.w_encoder = self._new_encoder(n_w)
        if n_w and w_prior == "learned":
            self.w_prior_loc = nn.Parameter(torch.zeros(n_conditions, n_w))
            self.w_prior_log_scale = nn.Parameter(torch.zeros(n_conditions, n_w))
        if classifier != "posterior":
            # like LABELVI's: batch normalisation would remember the mixture of components in training batches
            self.classifier = Classifier(
                n_latent + sum(covariates),
                n_hidden=n_hidden,
                n_labels=n_components,
                n_layers=1,
                dropout_rate=dropout_rate,
                logits=True,
                use_batch_norm=False,
            )
        if y_prior == "dirichlet":
            self.concentration = nn.Linear(n_latent, n_components)
        if y_prior == "learned":
            self.prior_logits = nn.Parameter(torch.zeros(n_components))
        self.register_buffer("alpha", torch.full((n_components,), float(alpha)))
        # before its components are placed the model is a VAE with a standard normal prior
        self.is_placed = True
        # over which the prior of p(y) is shared out
        self.register_buffer("n_cells", torch.ones(()))

    @property
    def log_prior(self) -> Tensor:
        """log p(y), ``(n_components,)``: uniform unless it is learned, whatever the Dirichlet of each cell."""
        if self.y_prior == "learned":
            return self.prior_logits.log_softmax(-1)
        return torch.full_like(self.get_buffer("alpha"), 1 / self.n_components).log()

    # -- the model, top to bottom ----------------------------------------------------------------------------

    @auto_move_data  # type: ignore[untyped-decorator]
    def inference(
        self,
        x: Tensor,
        batch_index: Tensor,
        condition: Tensor | None = None,
        cont_covs: Tensor | None = None,
        cat_covs: Tensor | None = None,
        size_factor: Tensor | None = None,
        n_samples: int = 1,
    ) -> dict[str, Any]:
        """q(z | x), q(w | x) and the log library size of each cell, as scvi-tools' dictionary."""
        found = super().inference(x, batch_index, condition, cont_covs, cat_covs, size_factor, n_samples)
        expression = self._expression(x, size_factor)
        encoder_input, covariates = self._encoder_input(expression, batch_index, condition, cont_covs, cat_covs)
        return {**found, "w": self._w_state(encoder_input, covariates, n_samples)}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Negative bound, mean over cells, plus the weighted cross entropy of labelled cells, in nats.

        `kl_weight` anneals the terms of z, w and y. Cells that were drawn again for their label enter the cross
        entropy only.
        """
        if not self.is_placed:
            return self._loss_before_placement(tensors, inference_outputs, generative_outputs, kl_weight)
        once, code = first_draws(tensors), self._codes(tensors)
        z, posterior = inference_outputs[MODULE_KEYS.Z_KEY], inference_outputs[MODULE_KEYS.QZ_KEY]
        state = inference_outputs["w"]
        components = self.mixture(z, None if state is None else state.sample, *self._rows(tensors))
        at = posterior.loc.expand_as(z) if self.classifier_kind == "mean" else z
        logits = self._component_logits(components, at, tensors)
        weights = label_weights(logits[..., once, :], code[once])
        kl = {
            "z": latent_term(_of(components, once), _of(posterior, once), z[..., once, :], weights, self.z_term),
            "y": self._y_term(weights, z[..., once, :]),
        }
        kl = {name: value.mean(0) if value.dim() > 1 else value for name, value in kl.items()}
        kl["w"] = torch.zeros_like(kl["z"]) if state is None else self._w_term(state, tensors, once)
        log_prob = generative_outputs["likelihood"].log_prob(tensors[REGISTRY_KEYS.X_KEY][once])
        reconstruction = -(log_prob.mean(0) if log_prob.dim() > 1 else log_prob)
        kl_library = inference_outputs["kl"].get("l")
        kl_library = torch.zeros_like(kl["z"]) if kl_library is None else kl_library[once]
        bound = reconstruction + kl_weight * (kl["z"] + kl["y"] + kl["w"]) + kl_library
        cross_entropy, accuracy = self._cross_entropy(logits, code)
        return LossOutput(
            loss=bound.mean() + self.classification_weight * cross_entropy + self._penalties(),
            reconstruction_loss=reconstruction,
            kl_local={
                MODULE_KEYS.KL_L_KEY: kl_library,
                **{f"kl_divergence_{name}": value for name, value in kl.items()},
            },
            extra_metrics={"classification_loss": cross_entropy.detach(), "accuracy": accuracy},
        )

    def _loss_before_placement(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: Tensor | float,
    ) -> LossOutput:
        """Loss of the VAE, of cells on their regular turn."""
        once = first_draws(tensors)
        of_cells = {**tensors, REGISTRY_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY][once]}
        kl = {name: value[once] for name, value in inference_outputs["kl"].items()}
        return super().loss(of_cells, {**inference_outputs, "kl": kl}, generative_outputs, kl_weight)

    # -- terms -----------------------------------------------------------------------------------------------

    def _y_term(self, weights: LabelWeights, z: Tensor) -> Tensor:
        """Divergence of q(y | z), and of q(d | z) where there is a Dirichlet, ``([n_samples,] n_cells)``."""
        alpha = self.get_buffer("alpha")
        if self.y_prior == "collapsed":
            term = collapsed_term(weights, alpha)
        elif self.y_prior == "dirichlet":
            term = dirichlet_term(weights, F.softplus(self.concentration(z)), alpha)
        elif self.y_prior == "balanced":
            term = balanced_term(weights)
        else:
            term = prior_term(weights, self.log_prior)
        return term.clamp_min(self.free_bits_y)

    def _w_term(self, state: GaussianState, tensors: dict[str, Tensor], once: Tensor) -> Tensor:
        """KL[q(w | x) || p(w | c)] of each cell, above its free nats, ``(n_cells,)``."""
        per_dimension = kl_divergence(state.posterior, self._w_prior(state.posterior.loc, tensors))[once]
        if self.free_bits_w > 0:
            per_dimension = per_dimension.mean(0).clamp_min(self.free_bits_w).expand_as(per_dimension)
        return per_dimension.sum(-1)

    def _w_prior(self, like: Tensor, tensors: dict[str, Tensor]) -> Normal:
        if self.w_prior == "standard":
            return standard_normal_like(like)
        rows = soft_one_hot(tensors[_keys.CONDITION], self.n_conditions).to(like.dtype)
        loc, scale = rows @ self.w_prior_loc, (rows @ self.w_prior_log_scale).exp()
        return Normal(loc.expand_as(like), scale.expand_as(like), validate_args=False)

    def _penalties(self) -> Tensor | float:
        penalty: Tensor | float = self.weight_l2 * weight_penalty(self) if self.weight_l2 > 0 else 0.0
        if self.y_prior == "learned":
            # log density of a Dirichlet(1 + alpha), each cell its share of it
            penalty = penalty - (self.get_buffer("alpha") * self.log_prior).sum() / self.get_buffer("n_cells")
        return penalty

    # -- components ------------------------------------------------------------------------------------------

    def _component_logits(self, components: Normal, z: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Unnormalised log q(y | z), ``([n_samples,] n_cells, n_components)``."""
        if self.classifier_kind == "posterior":
            return component_log_joint(components, z, self.log_prior)
        rows = [row.expand(*z.shape[:-1], row.shape[-1]) for row in self._rows(tensors)]
        logits: Tensor = self.classifier(torch.cat([z, *rows], dim=-1))
        return logits

    def component_logits_of(
        self, z: Tensor, encoder_input: Tensor, covariates: tuple[Tensor, ...], tensors: dict[str, Tensor]
    ) -> Tensor:
        """Logits of every component at latent positions, ``(n_cells, n_components)``; w is at its posterior mean.

        Parameters
        ----------
        z
            ``(n_cells, n_latent)`` posterior means.
        encoder_input, covariates
            What they were encoded from.
        tensors
            The mini-batch.
        """
        state = self._w_state(encoder_input, covariates, 1)
        components = self.mixture(z, None if state is None else state.posterior.loc, *self._rows(tensors))
        return self._component_logits(components, z, tensors)

    def logits_of(
        self, z: Tensor, encoder_input: Tensor, covariates: tuple[Tensor, ...], tensors: dict[str, Tensor]
    ) -> Tensor:
        """Logits of every label, or of every component where there are no labels."""
        return self.component_logits_of(z, encoder_input, covariates, tensors)[:, : self.n_labels or None]

    @auto_move_data  # type: ignore[untyped-decorator]
    def latent_means(self, tensors: dict[str, Tensor]) -> Tensor:
        """Posterior mean of z, ``(n_cells, n_latent)``."""
        encoder_input, covariates = self._encoder_input(self.classifier_input(tensors), **self._shared_input(tensors))
        mean: Tensor = self.z_encoder(encoder_input, *covariates).posterior.loc
        return mean

    @auto_move_data  # type: ignore[untyped-decorator]
    def responsibilities(self, tensors: dict[str, Tensor]) -> Tensor:
        """q(y | z) at the posterior mean of z, ``(n_cells, n_components)``."""
        encoder_input, covariates = self._encoder_input(self.classifier_input(tensors), **self._shared_input(tensors))
        mean = self.z_encoder(encoder_input, *covariates).posterior.loc
        return self.component_logits_of(mean, encoder_input, covariates, tensors).softmax(-1)

    # -- parts -----------------------------------------------------------------------------------------------

    def _w_state(self, encoder_input: Tensor, covariates: tuple[Tensor, ...], n_samples: int) -> GaussianState | None:
        return gaussian_state(self.w_encoder, encoder_input, *covariates, n_samples=n_samples) if self.n_w else None

    def _rows(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        if not self.conditional:
            return ()
        return (soft_one_hot(tensors[_keys.CONDITION], self.n_conditions).to(self.get_buffer("alpha").dtype),)

    def _codes(self, tensors: dict[str, Tensor]) -> Tensor:
        """Label of each cell, -1 where it is unknown and where nothing is labelled, ``(n_cells, 1)``."""
        if self.n_labels:
            return tensors[REGISTRY_KEYS.LABELS_KEY]
        return torch.full_like(tensors[REGISTRY_KEYS.BATCH_KEY], -1)

    def _log_ratio_of_z(
        self, likelihood: Likelihood, tensors: dict[str, Tensor], inference_outputs: dict[str, Any]
    ) -> Tensor:
        z, state = inference_outputs[MODULE_KEYS.Z_KEY], inference_outputs["w"]
        components = self.mixture(z, None if state is None else state.sample, *self._rows(tensors))
        ratio = likelihood.log_prob(tensors[REGISTRY_KEYS.X_KEY]) - log_density(
            inference_outputs[MODULE_KEYS.QZ_KEY], z
        )
        ratio = ratio + component_log_joint(components, z, self.log_prior).logsumexp(-1)
        if state is None:
            return ratio
        prior = self._w_prior(state.posterior.loc, tensors)
        return ratio + log_density(prior, state.sample) - log_density(state.posterior, state.sample)


def _of(distribution: Normal, cells: Tensor) -> Normal:
    return Normal(distribution.loc[..., cells, :], distribution.scale[..., cells, :], validate_args=False)


def _check_settings(**settings: str) -> None:
    for name, value in settings.items():
        if value not in ALLOWED[name]:
            raise unknown_category(name, value, ALLOWED[name], among="the settings")


def _check_w(*, n_w: int, w_prior: str, free_bits_w: float) -> None:
    if not isinstance(n_w, int | np.integer) or isinstance(n_w, bool) or n_w < 0:
        raise DeltaviError(f"n_w must be a whole number of at least 0, not {n_w!r}.")
    if not 0 <= free_bits_w < math.inf:
        raise DeltaviError(f"free_bits_w must not be negative, not {free_bits_w!r}.")
    if n_w == 0 and (w_prior == "learned" or free_bits_w > 0):
        raise DeltaviError("w_prior='learned' and free_bits_w are about w, of which n_w=0 leaves none.")
