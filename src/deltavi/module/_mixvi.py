"""MIXVI: a count VAE with a mixture of Gaussians, which components may be labels and may move with a condition."""

from __future__ import annotations

from typing import Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module import Classifier
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from deltavi import _keys
from deltavi._compat import MODULE_KEYS
from deltavi._errors import DeltaviError
from deltavi._reading import reads
from deltavi._types import Cells, Outputs
from deltavi.latent import (
    ComponentPriorKind,
    GaussianState,
    LatentTerm,
    MixtureComponents,
    component_log_joint,
    gaussian_state,
    label_weights,
    latent_term,
    log_density,
)
from deltavi.likelihood import Likelihood
from deltavi.module._mixture_terms import MixtureTerms, check_mixture_settings
from deltavi.module.labelled_vae import EncoderInput, LabelledVAE, first_draws
from deltavi.module.readers import READERS

ClassifierKind = Literal["z", "mean", "posterior"]


class MIXVI(MixtureTerms, LabelledVAE):
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

    @reads(READERS)
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
        check_mixture_settings(
            n_components=n_components,
            n_labels=n_labels,
            alpha=alpha,
            n_w=n_w,
            free_bits_w=free_bits_w,
            y_prior=y_prior,
            w_prior=w_prior,
            z_term=z_term,
            classifier=classifier,
        )
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
        covariates = (self.condition_rows.width,) if conditional else ()
        self.mixture = MixtureComponents(n_components, n_latent, n_w=n_w, covariates=covariates)
        if n_w:
            self.w_encoder = self._new_encoder(n_w)
        self._start_terms(n_latent=n_latent, n_w=n_w, alpha=alpha)
        if classifier != "posterior":
            # like LABELVI's: batch normalisation would depend on the shares of components in training
            self.classifier = Classifier(
                n_latent + sum(covariates),
                n_hidden=n_hidden,
                n_labels=n_components,
                n_layers=1,
                dropout_rate=dropout_rate,
                logits=True,
                use_batch_norm=False,
            )
        # before its components are placed the model is a VAE with a standard normal prior
        self.is_placed = True
        # labels that come from clusters are dropped for the last part of training
        self.labels_dropped = False

    # -- the model, top to bottom ----------------------------------------------------------------------------

    def _further_states(self, x: Tensor, covariates: tuple[Tensor, ...], n_samples: int) -> Outputs:
        return {"w": self._w_state(x, covariates, n_samples)}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: Outputs,
        generative_outputs: Outputs,
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Negative bound, mean over cells, plus the weighted cross entropy of labelled cells, in nats.

        `kl_weight` anneals the terms of z, w and y. Cells that were drawn again for their label enter the cross
        entropy only.
        """
        if not self.is_placed:
            return self._loss_before_placement(tensors, inference_outputs, generative_outputs, kl_weight)
        first, code = first_draws(tensors), self._codes(tensors)
        z, posterior = inference_outputs[MODULE_KEYS.Z_KEY], inference_outputs[MODULE_KEYS.QZ_KEY]
        state = inference_outputs["w"]
        components = self.mixture(z, None if state is None else state.sample, *self._rows(tensors))
        at = posterior.loc.expand_as(z) if self.classifier_kind == "mean" else z
        logits = self._component_logits(components, at, tensors)
        weights = label_weights(logits[..., first, :], code[first])
        kl = {
            "z": latent_term(
                _of(components, first), _of(posterior, first), z[..., first, :], weights=weights, how=self.z_term
            ),
            "y": self._y_term(weights, z[..., first, :]),
        }
        kl = {name: value.mean(0) if value.dim() > 1 else value for name, value in kl.items()}
        kl["w"] = torch.zeros_like(kl["z"]) if state is None else self._w_term(state, tensors, first)
        log_prob = self._log_prob(generative_outputs["likelihood"], tensors, first)
        reconstruction = -(log_prob.mean(0) if log_prob.dim() > 1 else log_prob)
        cross_entropy = self._cross_entropy(logits, code)
        return self._loss_output(
            reconstruction, kl, self._kl_library(inference_outputs, first), cross_entropy, kl_weight=kl_weight
        )

    def _loss_before_placement(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: Outputs,
        generative_outputs: Outputs,
        kl_weight: Tensor | float,
    ) -> LossOutput:
        """Loss of the VAE, of cells on their regular turn."""
        first = first_draws(tensors)
        kl = {name: value[first] for name, value in inference_outputs["kl"].items()}
        return self._plain_loss(self._log_prob(generative_outputs["likelihood"], tensors, first), kl, kl_weight)

    def _penalties(self) -> Tensor | float:
        return super()._penalties() + self._prior_penalty()

    # -- components ------------------------------------------------------------------------------------------

    def _component_logits(self, components: Normal, z: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Unnormalised log q(y | z), ``([n_samples,] n_cells, n_components)``."""
        if self.classifier_kind == "posterior":
            return self._without_pruned(component_log_joint(components, z, self.log_prior))
        rows = [row.expand(*z.shape[:-1], row.shape[-1]) for row in self._rows(tensors)]
        logits: Tensor = self.classifier(torch.cat([z, *rows], dim=-1))
        return self._without_pruned(logits)

    def component_logits_of(
        self, z: Tensor, encoder_input: Tensor, covariates: tuple[Tensor, ...], tensors: dict[str, Tensor]
    ) -> Tensor:
        """Logits of every component at latent positions, ``(n_cells, n_components)``; w is at its posterior mean.

        Parameters
        ----------
        z
            ``(n_cells, n_latent)`` posterior means.
        encoder_input, covariates
            Input of their encoder.
        tensors
            The mini-batch.
        """
        state = self._w_state(encoder_input, covariates, 1)
        components = self.mixture(z, None if state is None else state.posterior.loc, *self._rows(tensors))
        return self._component_logits(components, z, tensors)

    def logits_of(
        self, z: Tensor, encoder_input: Tensor, covariates: tuple[Tensor, ...], tensors: dict[str, Tensor]
    ) -> Tensor:
        """Logits of every label, or of every component in use where there are no labels."""
        logits = self.component_logits_of(z, encoder_input, covariates, tensors)
        return logits[:, : self.n_labels] if self.n_labels else logits[:, self.is_active]

    @auto_move_data
    def latent_moments(self, tensors: dict[str, Tensor]) -> Tensor:
        """Posterior mean of z, and then its variance, ``(n_cells, 2 * n_latent)``."""
        posterior = self._inferred(tensors)[0]
        return torch.cat([posterior.loc, posterior.variance], dim=-1)

    @auto_move_data
    def w_means(self, tensors: dict[str, Tensor]) -> Tensor:
        """Posterior mean of w, ``(n_cells, n_w)``."""
        state = self._inferred(tensors)[1]
        assert state is not None
        return state.posterior.loc

    @auto_move_data
    def responsibilities(self, tensors: dict[str, Tensor]) -> Tensor:
        """q(y | z) at the posterior means of z and w, ``(n_cells, n_components)``."""
        posterior, state = self._inferred(tensors)
        components = self.mixture(posterior.loc, None if state is None else state.posterior.loc, *self._rows(tensors))
        return self._component_logits(components, posterior.loc, tensors).softmax(-1)

    @auto_move_data
    def component_means(self, tensors: dict[str, Tensor], condition: int) -> Tensor:
        """Mean of p(z | w, y, c) under another condition, ``(n_cells, n_latent)``.

        w is at its posterior mean; y is the cell's label where it has one, else weighed by q(y | z).
        """
        posterior, state = self._inferred(tensors)
        w = None if state is None else state.posterior.loc
        here = self.mixture(posterior.loc, w, *self._rows(tensors))
        logits = self._component_logits(here, posterior.loc, tensors)
        weights = label_weights(logits, self._codes(tensors)).values.movedim(-1, 0).unsqueeze(-1)
        switched = {**tensors, _keys.CONDITION: torch.full_like(tensors[_keys.CONDITION], condition)}
        means: Tensor = (weights * self.mixture(posterior.loc, w, *self._rows(switched)).loc).sum(0)
        return means

    @auto_move_data
    def kl_per_dimension(self, tensors: dict[str, Tensor]) -> Tensor:
        """Divergence of each dimension of z, and then of w, from its prior, ``(n_cells, n_latent + n_w)``."""
        posterior, state = self._inferred(tensors)
        components = self.mixture(posterior.loc, None if state is None else state.posterior.loc, *self._rows(tensors))
        weights = self._component_logits(components, posterior.loc, tensors).softmax(-1).movedim(-1, 0).unsqueeze(-1)
        of_z = (weights * kl_divergence(posterior, components)).sum(0)
        return of_z if state is None else torch.cat([of_z, self._w_nats(state, tensors)], dim=-1)

    def draw(self, component: Tensor, condition: Tensor) -> Tensor:
        """Draw w from its prior and z from its component, ``(n, n_latent)``.

        Parameters
        ----------
        component
            ``(n,)`` codes.
        condition
            ``(n, 1)`` codes.
        """
        tensors = {_keys.CONDITION: condition}
        like = self.mixture.loc.new_zeros(len(component), self.n_latent)
        w = self._w_prior(like.new_zeros(len(component), self.n_w), tensors).rsample() if self.n_w else None
        components = self.mixture(like, w, *self._rows(tensors))
        at = torch.arange(len(component))
        drawn: Tensor = Normal(components.loc[component, at], components.scale[component, at]).rsample()
        return drawn

    # -- parts -----------------------------------------------------------------------------------------------

    def _inferred(self, tensors: dict[str, Tensor]) -> tuple[Normal, GaussianState | None]:
        """q(z | x) and the state of w."""
        encoder_input, covariates = self._encoder_input(self.classifier_input(tensors), **self._shared_input(tensors))
        return self.z_encoder(encoder_input, *covariates).posterior, self._w_state(encoder_input, covariates, 1)

    def _w_state(self, encoder_input: Tensor, covariates: tuple[Tensor, ...], n_samples: int) -> GaussianState | None:
        return gaussian_state(self.w_encoder, encoder_input, *covariates, n_samples=n_samples) if self.n_w else None

    def _rows(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        if not self.conditional:
            return ()
        return (self.condition_rows(tensors[_keys.CONDITION]).to(self.get_buffer("alpha").dtype),)

    def _codes(self, tensors: dict[str, Tensor]) -> Tensor:
        """Label of each cell, -1 where it is unknown and where nothing is labelled, ``(n_cells, 1)``."""
        if self.n_labels and not self.labels_dropped:
            return tensors[REGISTRY_KEYS.LABELS_KEY]
        return torch.full_like(tensors[REGISTRY_KEYS.BATCH_KEY], -1)

    def _log_ratio_of_z(self, likelihood: Likelihood, tensors: dict[str, Tensor], inference_outputs: Outputs) -> Tensor:
        z, state = inference_outputs[MODULE_KEYS.Z_KEY], inference_outputs["w"]
        components = self.mixture(z, None if state is None else state.sample, *self._rows(tensors))
        ratio = self._log_prob(likelihood, tensors) - log_density(inference_outputs[MODULE_KEYS.QZ_KEY], z)
        ratio = ratio + component_log_joint(components, z, self.log_prior).logsumexp(-1)
        if state is None:
            return ratio
        prior = self._w_prior(state.posterior.loc, tensors)
        return ratio + log_density(prior, state.sample) - log_density(state.posterior, state.sample)


def _of(distribution: Normal, cells: Cells) -> Normal:
    return Normal(distribution.loc[..., cells, :], distribution.scale[..., cells, :], validate_args=False)
