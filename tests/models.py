"""The registry of small models that every suite reads: a model that is added to the package is added here, once.

`MODELS` holds one entry of each public class, under its name, and `VARIANTS` other settings of them. What an entry can
do is declared, not looked up: a method that a class loses by mistake is missed by ``tests/test_models.py``, where a
suite that asks the class would test one thing less and say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anndata import AnnData

from deltavi.model import ACTINN, LABELVI, MIXVI, PPCA, SCGEN, VAE
from deltavi.testing import SmallModel
from deltavi.testing._cells import SETUP
from deltavi.testing._small_model import PERTURBATION, SMALL

__all__ = ["EVERY", "MODELS", "PERTURBATION", "SMALL", "VARIANTS", "SmallModel"]
__all__ += ["classes_of", "entry_of", "make", "names_of"]


def _by_name(*entries: SmallModel) -> dict[str, SmallModel]:
    return {entry.name: entry for entry in entries}


LABELS = {"labels_key": "cell_type"}
# enough labelled cells are held out to calibrate with
HOLD_OUT = {"train_size": 0.7}
MODELS = _by_name(
    SmallModel(name="VAE", model_class=VAE, exports=True),
    SmallModel(name="SCGEN", model_class=SCGEN, exports=True, verb="predict_perturbation"),
    SmallModel(name="LABELVI", model_class=LABELVI, training=HOLD_OUT, verb="predict", annotates=True),
    SmallModel(
        name="MIXVI",
        model_class=MIXVI,
        init={**SMALL, "n_components": 5},
        training=HOLD_OUT,
        verb="predict",
        annotates=True,
        clusters=True,
    ),
    SmallModel(
        name="ACTINN",
        model_class=ACTINN,
        setup=LABELS,
        init={"n_hidden": (16,), "n_networks": 2},
        training=HOLD_OUT,
        verb="predict",
        decodes=False,
        predicts=False,
        annotates=True,
    ),
    SmallModel(
        name="PPCA",
        model_class=PPCA,
        setup={"condition_key": "condition", **LABELS},
        init={"n_latent": 4},
        reads="logs",
        by_epochs=False,
    ),
)


def _variant(name: str, of: str, *, setup: Mapping[str, Any] | None = None, **init: Any) -> SmallModel:
    return replace(MODELS[of].but(setup=setup, **init), name=name)


VARIANTS = _by_name(
    _variant(
        "LearnedLibraryAndGeneBatchDispersion",
        "VAE",
        library="learned",
        dispersion="gene-batch",
        encode_covariates=True,
    ),
    _variant(
        "Covariates",
        "VAE",
        setup={"categorical_covariate_keys": ["cell_type"], "continuous_covariate_keys": ["total_counts"]},
    ),
    _variant("SizeFactorAndCondition", "SCGEN", setup={"size_factor_key": "total_counts"}, condition_in_decoder=True),
    replace(_variant("VampPrior", "VAE", prior="vamp", n_pseudo_inputs=6, encode_covariates=True), exports=False),
    replace(_variant("GaussianSCGEN", "SCGEN", gene_likelihood="normal"), reads="logs", exports=False),
    _variant(
        "LABELVIWithEveryOption",
        "LABELVI",
        library="learned",
        dispersion="gene-label",
        gene_likelihood="nb",
        y_prior="learned",
        encode_covariates=True,
        condition_in_decoder=True,
        class_balance=1.0,
    ),
    _variant(
        "ConditionalMIXVI",
        "MIXVI",
        n_components=None,
        n_w=2,
        conditional=True,
        y_prior="dirichlet",
        w_prior="learned",
        z_term="mc",
        classifier="mean",
    ),
    replace(
        _variant("Clustering", "MIXVI", n_components=4, y_prior="learned"),
        setup={key: value for key, value in SETUP.items() if key != "labels_key"},
        training={},
        verb="get_latent_representation",
        annotates=False,
    ),
    replace(
        _variant("LogisticRegression", "ACTINN", setup={"size_factor_key": "total_counts"}),
        init={"n_hidden": (), "scale": True, "filter_genes": False, "class_weight": "balanced"},
    ),
    _variant("FactorAnalysis", "PPCA", noise="diagonal"),
)
EVERY = {**MODELS, **VARIANTS}


def make(name: str, *, seed: int = 0, epochs: int = 0) -> tuple[AnnData, Any]:
    """Cells of a seed and a model of them with the same seed, trained for `epochs`, by the name of an entry."""
    entry = EVERY[name]
    adata = entry.cells(seed)
    return adata, entry.trained(adata, epochs=epochs, seed=seed) if epochs else entry.untrained(adata, seed=seed)


def names_of(**abilities: Any) -> list[str]:
    """Names of the entries of `MODELS` with these abilities, as in ``names_of(annotates=True, reads="counts")``."""
    return [entry.name for entry in MODELS.values() if all(getattr(entry, a) == v for a, v in abilities.items())]


def classes_of(**abilities: Any) -> list[Any]:
    """Classes of the entries of `MODELS` with these abilities."""
    return [MODELS[name].model_class for name in names_of(**abilities)]


def entry_of(model_class: Any) -> SmallModel:
    """Entry of a public class."""
    return MODELS[model_class.__name__]
