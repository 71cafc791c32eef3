"""Count VAE: counts are encoded into a Gaussian latent space, and decoded."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor

from deltavi import _keys
from deltavi._compat import MODULE_KEYS
from deltavi._errors import DeltaviError
from deltavi._reading import reads
from deltavi._types import Outputs
from deltavi.latent import (
    PRIORS,
    Architecture,
    GaussianEncoder,
    GaussianState,
    Given,
    LibraryKind,
    LibraryPrior,
    OneHotRows,
    Prior,
    PriorKind,
    known_log_library,
    learned_library_state,
    library_encoder,
)
from deltavi.likelihood import Dispersion, Likelihood
from deltavi.module._anywhere import AnywhereMixin, encode_anywhere
from deltavi.module._bounds import BoundsMixin
from deltavi.module._generated import Generated
from deltavi.module.decoder import (
    Decoded,
    Decoder,
    DispersionKind,
    GeneLikelihood,
    ScaleActivation,
    build_likelihood,
    dispersion_rows,
    initial_log_dispersion,
    weight_penalty,
)
from deltavi.module.readers import READERS
from deltavi.module.settings import (
    COUNT_LIKELIHOODS,
    WITHOUT_DISPERSION,
    Where,
    check_settings,
    default_activation,
)


class VAE(AnywhereMixin, BoundsMixin):
    """x <- (z, l, covariates): the model of scVI and its relatives.

    The generative model is z ~ N(0, I) or another prior, library l observed, given or log-normal,
    rho = f(z, batch, covariates), x_g ~ likelihood(l * rho_g, theta_g) (Lopez et al. 2018). With a deterministic
    posterior it is an autoencoder; with a Gaussian likelihood of fixed variance, the model of scGen.

    Parameters
    ----------
    n_input
        Genes.
    n_batch, n_labels, n_conditions
        Number of batches, labels and conditions.
    n_continuous_cov, n_cats_per_cov
        Number of continuous covariates, and of categories of each categorical one.
    n_hidden, n_layers, n_latent, dropout_rate
        Width and depth of the networks, latent dimensions, dropout of the encoder. Depth zero is linear.
    n_layers_decoder
        Depth of the decoder, where it differs.
    dropout_rate_decoder
        Dropout of the decoder; scVI uses none, scGen 0.2.
    gene_likelihood
        ``"zinb"``, ``"nb"``, ``"poisson"`` on raw counts, ``"normal"`` on log-normalised expression, ``"bernoulli"``
        on detection (values from zero to one).
    dispersion
        ``"gene"``, ``"gene-batch"``, ``"gene-label"``, ``"gene-cell"``; with ``"normal"`` it is the standard
        deviation and may also be ``"shared"`` or ``"fixed"``.
    noise_variance
        Variance of a Gaussian likelihood with ``dispersion="fixed"``; 1/2 makes the loss a sum of squares.
    library
        ``"observed"`` (total counts of the cell), ``"size_factor"`` (given), ``"learned"`` (log-normal), or
        ``"none"`` (log-normalised input).
    library_log_means, library_log_vars
        ``(1, n_batch)`` prior of log library size, for ``"learned"``.
    scale_activation
        ``"softmax"`` (shares of the library), ``"softmax_rest"`` (shares of a library that also holds genes outside
        the model), ``"softplus"``, ``"exp"`` or ``"linear"``; the default follows library and likelihood.
    log_variational
        Encode log1p(x) rather than x.
    encode_covariates, deeply_inject_covariates
        Give covariates to the encoder, and to every hidden layer rather than to the first.
    condition_in_decoder
        Treat the condition as a decoder covariate, so that it can be switched.
    condition_mmd
        Weight, nats, of a penalty that makes cells of a label lie alike in all conditions, as in trVAE.
    use_batch_norm, use_layer_norm
        Networks to normalise.
    activation, bias
        Activation of hidden layers; True if linear maps have a bias.
    posterior
        ``"gaussian"`` or ``"deterministic"`` (autoencoder).
    weight_l2
        Multiplier of the squared weights of all linear maps, added to the loss.
    prior, n_pseudo_inputs
        Name in :data:`deltavi.latent.PRIORS`: ``"normal"``, N(0, I), or ``"vamp"``,
        :class:`deltavi.latent.VampPrior` with that many components.
    """

    @reads(READERS)
    def __init__(
        self,
        n_input: int,
        *,
        n_batch: int = 1,
        n_labels: int = 1,
        n_conditions: int = 1,
        n_continuous_cov: int = 0,
        n_cats_per_cov: tuple[int, ...] = (),
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        n_layers_decoder: int | None = None,
        dropout_rate: float = 0.1,
        dropout_rate_decoder: float = 0.0,
        gene_likelihood: GeneLikelihood = "zinb",
        dispersion: DispersionKind = "gene",
        noise_variance: float = 1.0,
        library: LibraryKind = "observed",
        library_log_means: np.ndarray | None = None,
        library_log_vars: np.ndarray | None = None,
        scale_activation: ScaleActivation | None = None,
        log_variational: bool = True,
        encode_covariates: bool = False,
        deeply_inject_covariates: bool = True,
        condition_in_decoder: bool = False,
        condition_mmd: float = 0.0,
        use_batch_norm: Where = "both",
        use_layer_norm: Where = "none",
        activation: Literal["relu", "leaky_relu"] = "relu",
        bias: bool = True,
        posterior: Literal["gaussian", "deterministic"] = "gaussian",
        weight_l2: float = 0.0,
        prior: PriorKind = "normal",
        n_pseudo_inputs: int = 50,
    ) -> None:
        super().__init__()
        check_settings(
            gene_likelihood=gene_likelihood,
            dispersion=dispersion,
            library=library,
            scale_activation=scale_activation,
            use_batch_norm=use_batch_norm,
            use_layer_norm=use_layer_norm,
            activation=activation,
            posterior=posterior,
            prior=prior,
        )
        self.n_input, self.n_latent, self.n_labels, self.n_conditions = n_input, n_latent, n_labels, n_conditions
        self.n_continuous_cov = n_continuous_cov
        self.gene_likelihood, self.dispersion, self.library = gene_likelihood, dispersion, library
        self.of_counts = gene_likelihood in COUNT_LIKELIHOODS
        self.noise_variance, self.weight_l2 = noise_variance, weight_l2
        self.log_variational, self.encode_covariates = log_variational, encode_covariates
        self.condition_in_decoder, self.condition_mmd = condition_in_decoder, condition_mmd
        self.latent_distribution, self.bias = "normal", bias
        self.scale_activation = scale_activation or default_activation(gene_likelihood, library)
        self.condition_rows = self._condition_rows(n_conditions)
        of_condition = (self.condition_rows,) if condition_in_decoder else ()
        self.covariate_rows = (OneHotRows(n_batch), *of_condition, *map(OneHotRows, n_cats_per_cov))
        self.covariate_sizes = tuple(rows.width for rows in self.covariate_rows)

        def architecture(side: Literal["encoder", "decoder"], n_layers: int, dropout: float) -> Architecture:
            return Architecture(
                n_layers=n_layers,
                n_hidden=n_hidden,
                dropout_rate=dropout,
                batch_norm=use_batch_norm in (side, "both"),
                layer_norm=use_layer_norm in (side, "both"),
                inject_covariates=deeply_inject_covariates,
                activation=activation,
                bias=bias,
            )

        encoded = self.covariate_sizes if encode_covariates else ()
        n_encoder_input = n_input + n_continuous_cov * encode_covariates
        encoder = architecture("encoder", n_layers, dropout_rate)
        self._new_encoder = partial(GaussianEncoder, n_encoder_input, architecture=encoder, covariates=encoded)
        self.z_encoder = self._new_encoder(n_latent, posterior=posterior)
        self.prior: Prior = PRIORS[prior].of_size(n_input=n_input, n_latent=n_latent, n_components=n_pseudo_inputs)
        if library == "learned":
            if library_log_means is None or library_log_vars is None:
                raise DeltaviError("A learned library needs library_log_means and library_log_vars.")
            self.l_encoder = library_encoder(n_encoder_input, encoder, encoded)
            self.library_prior = LibraryPrior(library_log_means, library_log_vars)
        self.decoder = Decoder(
            n_latent + n_continuous_cov,
            n_input,
            architecture=architecture(
                "decoder", n_layers if n_layers_decoder is None else n_layers_decoder, dropout_rate_decoder
            ),
            covariates=self.covariate_sizes,
            activation=self.scale_activation,
            with_dropout=gene_likelihood == "zinb",
            with_dispersion=dispersion == "gene-cell" and gene_likelihood not in WITHOUT_DISPERSION,
        )
        tabled = None if gene_likelihood in WITHOUT_DISPERSION else dispersion
        self.px_r = initial_log_dispersion(tabled, n_input, n_batch, n_labels)

    # -- the model, top to bottom -------------------------------------------------------------------------

    @auto_move_data
    def inference(
        self,
        x: Tensor,
        batch_index: Tensor,
        condition: Tensor | None = None,
        cont_covs: Tensor | None = None,
        cat_covs: Tensor | None = None,
        size_factor: Tensor | None = None,
        n_samples: int = 1,
    ) -> Outputs:
        """q(z | x) and the log library size of each cell, as scvi-tools' dictionary."""
        expression = self._expression(x, size_factor)
        encoder_input, covariates = self._encoder_input(expression, batch_index, condition, cont_covs, cat_covs)
        latent: GaussianState = self.z_encoder(encoder_input, *covariates, n_samples=n_samples)
        library = self._library(x, size_factor, encoder_input, batch_index, covariates, n_samples)
        library_kl = library.kl if isinstance(library, GaussianState) else {}
        return {
            MODULE_KEYS.Z_KEY: latent.sample,
            MODULE_KEYS.QZ_KEY: latent.posterior,
            MODULE_KEYS.QL_KEY: library.posterior if isinstance(library, GaussianState) else None,
            MODULE_KEYS.LIBRARY_KEY: library.sample if isinstance(library, GaussianState) else library,
            "kl": {**(latent.kl or {"z": self.prior.kl(latent, self._given(batch_index, condition))}), **library_kl},
            **self._further_states(encoder_input, covariates, n_samples),
        }

    @auto_move_data
    def generative(
        self,
        z: Tensor,
        library: Tensor | None,
        batch_index: Tensor,
        condition: Tensor | None = None,
        cont_covs: Tensor | None = None,
        cat_covs: Tensor | None = None,
        y: Tensor | None = None,
        transform_batch: int | Tensor | None = None,
    ) -> Outputs:
        """Likelihood of the counts given z; ``px`` is scvi-tools' view of it."""
        if transform_batch is not None:
            batch_index = torch.ones_like(batch_index) * torch.as_tensor(transform_batch, device=batch_index.device)
        return Generated(self.decode(z, library, batch_index, condition, cont_covs, cat_covs, y))

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: Outputs,
        generative_outputs: Outputs,
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Negative evidence lower bound, mean over cells, in nats.

        As in scVI `kl_weight` anneals the KL term of z and leaves that of the library size alone. With several
        samples the reconstruction is their mean (the K-sample estimate).
        """
        log_prob = self._log_prob(generative_outputs["likelihood"], tensors)
        penalty = self._condition_penalty(inference_outputs, tensors) if self.condition_mmd > 0 else 0.0
        return self._plain_loss(log_prob, inference_outputs["kl"], kl_weight, penalty)

    def _plain_loss(
        self, log_prob: Tensor, kl: dict[str, Tensor], kl_weight: Tensor | float, penalty: Tensor | float = 0.0
    ) -> LossOutput:
        """The loss of ``([n_samples,] n_cells)`` log p(x | z) and the named KL terms ``(n_cells,)``, in nats."""
        reconstruction = -log_prob if log_prob.ndim == 1 else -log_prob.mean(0)
        kl_library = kl.get("l", torch.zeros_like(kl["z"]))
        loss = (reconstruction + kl_weight * kl["z"] + kl_library).mean() + penalty
        if self.weight_l2 > 0:
            loss = loss + self.weight_l2 * weight_penalty(self)
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local={MODULE_KEYS.KL_L_KEY: kl_library, MODULE_KEYS.KL_Z_KEY: kl["z"]},
        )

    # -- parts -----------------------------------------------------------------------------------------------

    def _given(self, batch_index: Tensor, condition: Tensor | None = None) -> Given:
        return Given(partial(encode_anywhere, self), batch_index, condition)

    def _further_states(self, x: Tensor, covariates: tuple[Tensor, ...], n_samples: int) -> Outputs:
        """Further latent variables of a cell, in subclasses."""
        return {}

    def decode(
        self,
        z: Tensor,
        library: Tensor | None,
        batch_index: Tensor,
        condition: Tensor | None = None,
        cont_covs: Tensor | None = None,
        cat_covs: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Likelihood:
        """Likelihood at latent positions `z` ``([n_samples,] n_cells, n_latent)``."""
        if cont_covs is not None:
            cont_covs = cont_covs if z.dim() == cont_covs.dim() else cont_covs.expand(z.shape[0], *cont_covs.shape)
            z = torch.cat([z, cont_covs], dim=-1)
        decoded = self.decoder(z, *self._covariates(batch_index, condition, cat_covs))
        return build_likelihood(
            self.gene_likelihood,
            decoded,
            None if self.library == "none" else library,
            self._dispersion(decoded, batch_index, y),
        )

    def _dispersion(self, decoded: Decoded, batch_index: Tensor, y: Tensor | None) -> Dispersion | None:
        if self.gene_likelihood in WITHOUT_DISPERSION:
            return None
        if self.dispersion == "fixed":
            return Dispersion(values=torch.full_like(decoded.scale[..., :1, :1], math.sqrt(self.noise_variance)))
        label = batch_index if y is None else y
        return dispersion_rows(self.dispersion, self.px_r, decoded, batch=batch_index, label=label)

    def encoded_expression(self, tensors: dict[str, Tensor]) -> Tensor:
        """Expression of the cells of a mini-batch as the encoder takes it, ``(n_cells, n_input)``."""
        return self._expression(tensors[REGISTRY_KEYS.X_KEY], tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))

    def _expression(self, x: Tensor, size_factor: Tensor | None) -> Tensor:
        """Expression as the encoder takes it."""
        return torch.log1p(x) if self.log_variational else x

    def _encoder_input(
        self,
        expression: Tensor,
        batch_index: Tensor,
        condition: Tensor | None,
        cont_covs: Tensor | None,
        cat_covs: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.encode_covariates:
            return expression, ()
        encoder_input = expression if cont_covs is None else torch.cat((expression, cont_covs), dim=-1)
        return encoder_input, self._covariates(batch_index, condition, cat_covs)

    def _library(
        self,
        x: Tensor,
        size_factor: Tensor | None,
        encoder_input: Tensor,
        batch_index: Tensor,
        covariates: tuple[Tensor, ...],
        n_samples: int,
    ) -> Tensor | GaussianState | None:
        if self.library == "learned":
            return learned_library_state(
                self.l_encoder, self.library_prior, encoder_input, *covariates, batch=batch_index, n_samples=n_samples
            )
        return self.known_library(x, size_factor, n_samples)

    def known_library(self, x: Tensor, size_factor: Tensor | None, n_samples: int = 1) -> Tensor | None:
        """Log library size of each cell where none is learned, ``([n_samples,] n_cells, 1)``; ``None`` without any."""
        if self.library == "none":
            return None
        return known_log_library(x, size_factor if self.library == "size_factor" else None, n_samples=n_samples)

    # -- scvi-tools' edge ------------------------------------------------------------------------------------

    def _shared_input(self, tensors: dict[str, Tensor]) -> Outputs:
        return {
            MODULE_KEYS.BATCH_INDEX_KEY: tensors[REGISTRY_KEYS.BATCH_KEY],
            "condition": tensors.get(_keys.CONDITION),
            MODULE_KEYS.CONT_COVS_KEY: tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
            MODULE_KEYS.CAT_COVS_KEY: tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
        }

    def _get_inference_input(self, tensors: dict[str, Tensor], **_: object) -> Outputs:
        return {
            MODULE_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY],
            MODULE_KEYS.SIZE_FACTOR_KEY: tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY),
            **self._shared_input(tensors),
        }

    def _get_generative_input(self, tensors: dict[str, Tensor], inference_outputs: Outputs, **_: object) -> Outputs:
        return {
            MODULE_KEYS.Z_KEY: inference_outputs[MODULE_KEYS.Z_KEY],
            MODULE_KEYS.LIBRARY_KEY: inference_outputs[MODULE_KEYS.LIBRARY_KEY],
            MODULE_KEYS.Y_KEY: tensors.get(REGISTRY_KEYS.LABELS_KEY),
            **self._shared_input(tensors),
        }
