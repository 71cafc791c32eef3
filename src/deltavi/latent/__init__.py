"""Latent structures: priors, posteriors and KL terms, independent of counts."""

from deltavi.latent._factors import LinearGaussian, common_factors, principal_factors
from deltavi.latent._independence import condition_mmd
from deltavi.latent._labelled import (
    LabelConditional,
    LabelHierarchy,
    LabelTerms,
    LabelWeights,
    label_kl,
    label_weights,
    log_density,
)
from deltavi.latent._library import (
    LibraryKind,
    LibraryPrior,
    known_log_library,
    learned_library_state,
    library_encoder,
    observed_log_library,
)
from deltavi.latent._mixture import (
    ComponentPriorKind,
    LatentTerm,
    MixtureComponents,
    Usage,
    balanced_term,
    check_mixture,
    collapsed_term,
    component_log_joint,
    dirichlet_term,
    latent_term,
    prior_term,
)
from deltavi.latent._networks import Architecture, hidden_layers, linear_layer, run_layers, soft_one_hot
from deltavi.latent._prior import PRIORS, Given, Prior, PriorKind, StandardNormal, VampPrior
from deltavi.latent._rows import CategoryRows, FeatureRows, OneHotRows
from deltavi.latent.gaussian import GaussianEncoder, GaussianState, gaussian_state, standard_normal_like

__all__ = [
    "PRIORS",
    "Architecture",
    "CategoryRows",
    "ComponentPriorKind",
    "FeatureRows",
    "GaussianEncoder",
    "GaussianState",
    "Given",
    "LabelConditional",
    "LabelHierarchy",
    "LabelTerms",
    "LabelWeights",
    "LatentTerm",
    "LibraryKind",
    "LibraryPrior",
    "LinearGaussian",
    "MixtureComponents",
    "OneHotRows",
    "Prior",
    "PriorKind",
    "StandardNormal",
    "Usage",
    "VampPrior",
    "balanced_term",
    "check_mixture",
    "collapsed_term",
    "common_factors",
    "component_log_joint",
    "condition_mmd",
    "dirichlet_term",
    "gaussian_state",
    "hidden_layers",
    "known_log_library",
    "label_kl",
    "label_weights",
    "latent_term",
    "learned_library_state",
    "library_encoder",
    "linear_layer",
    "log_density",
    "observed_log_library",
    "principal_factors",
    "prior_term",
    "run_layers",
    "soft_one_hot",
    "standard_normal_like",
]
