"""No public function swallows a keyword: each is called with one that does not exist."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import scvi.train
from anndata import AnnData

from deltavi import datasets, get, metrics, model, module, perturbation, pl, pp, tl
from deltavi._entries import init_keywords
from deltavi._reading import known_arguments
from deltavi.errors import DeltaviError, UnknownArgumentError
from deltavi.model import ACTINN, MIXVI, PPCA, SCGEN, VAE
from deltavi.model._base import CountModel
from deltavi.model._training_options import loading_keywords, metrics_of, plan_keywords, trainer_keywords
from deltavi.model._verb_keywords import verb_keywords
from tests.model.conftest import QUIET, small_adata
from tests.models import classes_of, entry_of

PUBLIC: list[ModuleType] = [datasets, get, metrics, model, module, perturbation, pl, pp, tl]
# what torch and scvi-tools call themselves, and no user with keywords of ours
OF_BASES = (
    "save",
    "compile",
    "to",
    "on_load",
    "sample",
    "transfer_fields",
    "setup_annbatch",
    "get_importance_weights",
    "differential_abundance",
)
# refuse whatever they are given
REFUSING = {"convert_legacy_save", "load_query_data"}


def collects(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


FUNCTIONS = {
    f"{part.__name__}.{name}": getattr(part, name)
    for part in PUBLIC
    for name in part.__all__
    if callable(getattr(part, name))
}


def required(function: Any) -> dict[str, Any]:
    """Something for each argument that has no default."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: None for p in parameters if p.default is p.empty and p.kind in kinds}


@cache
def fitted(model_class: Any) -> Any:
    return entry_of(model_class).trained()


@pytest.mark.parametrize(("name", "thing"), list(FUNCTIONS.items()), ids=list(FUNCTIONS))
def test_a_function_or_class_that_is_called_with_a_keyword_it_does_not_have(name: str, thing: Any) -> None:
    needed = required(thing)
    if thing in classes_of():
        needed = {"adata": fitted(thing)._adata}
    if name.startswith("deltavi.module"):
        needed = {"n_input": 5, **({"n_labels": 2} if "ACTINN" in name or "LABELVI" in name else {})}
        needed |= {"n_components": 3} if "MIXVI" in name else {}
    with pytest.raises(UnknownArgumentError, match=r"no_such_argument"):
        thing(**needed, no_such_argument=1)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: pp.highly_variable_genes(None, n_top_genes=3), "n_top"),
        (lambda: metrics.e_distance(None, None, max_cell=3), "max_cells"),
        (lambda: pl.reg_mean(None, titel="a"), "title"),
        (lambda: perturbation.Shift(vectro=None), "vector"),
        (lambda: tl.Split(name="a", holdout=None), None),
    ],
)
def test_a_misspelt_keyword_of_a_function_is_answered_with_the_nearest(call: Any, nearest: str | None) -> None:
    with pytest.raises(UnknownArgumentError, match="has no argument" if nearest is None else f"mean '{nearest}'"):
        call()


def test_an_error_of_a_function_itself_goes_on_as_it_is() -> None:
    @known_arguments
    def broken(x: int) -> int:
        return x + "a"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand") as caught:
        broken(1)
    assert not isinstance(caught.value, DeltaviError)


METHODS = [
    (cls, name)
    for cls in classes_of()
    for name, method in inspect.getmembers(cls, callable)
    if not name.startswith("_") and name not in OF_BASES and (inspect.isfunction(method) or inspect.ismethod(method))
]


@pytest.mark.parametrize(("cls", "name"), METHODS, ids=[f"{cls.__name__}.{name}" for cls, name in METHODS])
def test_a_method_of_a_model_that_is_called_with_a_keyword_it_does_not_have(
    cls: Any, name: str, tmp_path: Path
) -> None:
    fit = fitted(cls)
    method = getattr(fit, name)
    given = {"dir_path": tmp_path / "model", "adata": fit._adata, "reference_model": fit, "vae": fit}
    needed = {key: given.get(key) for key in required(method)}
    ours = method.__module__.startswith("deltavi") and name not in REFUSING
    kind = UnknownArgumentError if ours else (TypeError, DeltaviError)
    if cls is ACTINN and name == "get_normalized_expression":
        # of no use to a model without a decoder
        kind = (NotImplementedError, UnknownArgumentError)  # type: ignore[assignment]
    with pytest.raises(kind) as caught:
        method(**needed, no_such_argument=1)
    assert "no_such_argument" in str(caught.value) or name in REFUSING or "ACTINN" in str(cls)
    assert not (tmp_path / "model").exists()


def test_a_plot_of_an_evaluation_hands_on_what_the_plot_takes() -> None:
    with pytest.raises(UnknownArgumentError, match=r"no argument 'colour'.*Known: .*'title'|no argument 'colour'"):
        tl.PerturbationEvaluation.plot(None, colour="red")  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", classes_of(decodes=True, reads="counts"))
def test_a_misspelt_setting_is_answered_with_the_nearest(cls: Any) -> None:
    adata = fitted(cls)._adata
    for wrong, right in {
        "n_latents": "n_latent",
        "weight_L2": "weight_l2",
        "gene_likelyhood": "gene_likelihood",
    }.items():
        with pytest.raises(UnknownArgumentError, match=rf"{cls.__name__} has no argument '{wrong}'.*mean '{right}'"):
            cls(adata, **{wrong: 5})
    with pytest.raises(UnknownArgumentError, match=r"'n_batch'. It follows from the data"):
        cls(adata, n_batch=3)


def test_settings_of_clusters_are_looked_at_before_anything_is_registered() -> None:
    adata = small_adata()
    with pytest.raises(UnknownArgumentError, match=r"from_clusters has no argument 'n_latents'.*'n_latent'"):
        MIXVI.from_clusters(adata, "cell_type", n_latents=5)
    assert "_scvi_labels" not in adata.obs


@pytest.mark.parametrize(
    ("verb", "wrong", "right"),
    [
        ("get_latent_representation", "return_dists", "return_dist"),
        ("differential_expression", "group_by", "groupby"),
        ("differential_expression", "pseudocount", "pseudocounts"),
        ("get_elbo", "batchsize", "batch_size"),
        ("get_marginal_ll", "mc_samples", "n_mc_samples"),
        ("get_normalized_expression", "n_sample", "n_samples"),
        ("predict_perturbation", "controls", "control"),
        ("posterior_predictive_sample", "num_worker", "num_workers"),
    ],
)
def test_a_misspelt_argument_of_a_verb_is_answered_with_the_nearest(verb: str, wrong: str, right: str) -> None:
    with pytest.raises(UnknownArgumentError, match=rf"VAE.{verb} has no argument '{wrong}'.*Did you mean '{right}'"):
        getattr(fitted(VAE), verb)(**{wrong: 1})


def test_verbs_take_what_they_hand_on() -> None:
    fit = fitted(VAE)
    assert float(fit.get_elbo(batch_size=64, data_loader_kwargs={"num_workers": 0})) < 0
    assert {"give_mean", "num_workers", "data_and_attributes"} <= set(verb_keywords(VAE, "get_latent_representation"))
    assert {"pseudocounts", "delta"} <= set(verb_keywords(VAE, "differential_expression"))
    assert {"of", "return_dist"} <= set(verb_keywords(MIXVI, "get_latent_representation"))
    assert fit.get_latent_representation(give_mean=True, num_workers=0).shape == (fit.adata.n_obs, 4)


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": 1e-3}, r"'lr'. It is a setting of the plan: pass plan_kwargs={'lr': ...}"),
        ({"learning_rate": 1e-3}, "Pass plan_kwargs={'lr': ...}"),
        ({"use_gpu": False}, "Pass accelerator="),
        ({"n_epochs": 3}, "Pass max_epochs"),
        ({"n_epochs_kl_warmup": 3}, "setting|kl_warmup"),
        ({"early_stoping_patience": 3}, "Did you mean 'early_stopping_patience'"),
        ({"gradient_clip_value": 3}, "Did you mean 'gradient_clip_val'"),
        ({"plan_kwargs": {"learning_rate": 1}}, "plan_kwargs has no argument 'learning_rate'. Pass 'lr'"),
        ({"plan_kwargs": {"max_kl_weigth": 1}}, "Did you mean 'max_kl_weight'"),
        ({"plan_config": {"learning_rat": 1}}, "plan_kwargs has no argument 'learning_rat'"),
        ({"trainer_config": {"max_stepz": 1}}, "Did you mean 'max_steps'"),
        ({"datasplitter_kwargs": {"num_worker": 1}}, "Did you mean 'num_workers'"),
        ({"datasplitter_kwargs": {"sampler": 1}}, "pass train_indices and validation_indices"),
    ],
)
def test_training_refuses_what_it_does_not_know(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UnknownArgumentError, match=words):
        fitted(VAE).train(1, **{**QUIET, **given})


@pytest.mark.parametrize("cls", classes_of(annotates=True))
def test_a_model_with_mini_batches_of_its_own_says_so(cls: Any) -> None:
    with pytest.raises(UnknownArgumentError, match=rf"'drop_last'. {cls.__name__} makes mini-batches of its own"):
        fitted(cls).train(1, datasplitter_kwargs={"drop_last": True}, **QUIET)
    with pytest.raises(UnknownArgumentError, match=r"'load_sparse_tensor'"):
        fitted(cls).train(1, load_sparse_tensor=True, **QUIET)


def test_ppca_knows_what_other_models_train_with_and_nothing_else() -> None:
    fit = fitted(PPCA)
    fit.train(3, batch_size=32, early_stopping=True, plan_kwargs={"lr": 1.0}, **QUIET)
    with pytest.raises(UnknownArgumentError, match=r"PPCA.train has no argument 'max_epoch'.*'max_epochs'"):
        fit.train(max_epoch=3)
    with pytest.raises(UnknownArgumentError, match=r"plan_kwargs has no argument 'learning_rate'"):
        fit.train(plan_kwargs={"learning_rate": 1})


def test_what_is_known_is_what_the_libraries_take() -> None:
    known = trainer_keywords(CountModel.train)
    assert {"max_time", "precision", "early_stopping_patience", "ckpt_path", "shuffle_set_split", "seed"} <= set(known)
    assert not {"self", "model", "training_plan", "trainer_kwargs"} & set(known)
    assert {"lr", "lr_schedule", "optimizer_creator", "compile"} <= set(plan_keywords(fitted(VAE)))
    assert "module" not in plan_keywords(fitted(VAE))
    assert {"drop_last", "num_workers", "external_indexing"} <= set(loading_keywords(fitted(VAE)))
    assert "adata_manager" not in loading_keywords(fitted(VAE))
    assert init_keywords(scvi.train.Trainer)[:2] == ["accelerator", "devices"]


@pytest.mark.parametrize("cls", classes_of(by_epochs=True))
def test_metrics_that_can_be_watched_are_those_that_are_logged(cls: Any) -> None:
    fit = fitted(cls)
    fit.train(1, batch_size=32, check_val_every_n_epoch=1, **QUIET)
    logged = {name for name in fit.history if name != "kl_weight"}
    assert logged == set(metrics_of(fit)) - {"kl_weight"}


# -- files and queries ---------------------------------------------------------------------------------------


def test_names_that_scvi_tools_has_for_files_are_answered(tmp_path: Path) -> None:
    fit = fitted(VAE)
    fit.save(tmp_path / "model")
    for name, words in {"prefix": "folder of its own", "backup_url": "Fetch"}.items():
        with pytest.raises(UnknownArgumentError, match=rf"VAE.load has no argument '{name}'.*{words}"):
            VAE.load(tmp_path / "model", **{name: "x"})
    with pytest.raises(UnknownArgumentError, match=r"Did you mean 'freeze_dropout'"):
        VAE.load_query_data(small_adata(), fit, freeze_dropouts=True)


def test_the_registry_of_a_folder_is_read_without_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = fitted(VAE)
    fit.save(tmp_path / "model")
    assert VAE.load_registry(tmp_path / "model")["setup_args"] == fit.registry["setup_args"]
    VAE.view_setup_args(tmp_path / "model")
    assert capsys.readouterr().out.startswith("VAE.setup_anndata(adata, condition_key='condition', ")
    query = small_adata(seed=3)[:, ::-1].copy()
    prepared = VAE.prepare_query_anndata(query, tmp_path / "model", inplace=False)
    assert list(prepared.var_names) == list(fit.gene_names)
    names = VAE.prepare_query_anndata(query, fit, return_reference_var_names=True)
    assert list(names) == list(fit.gene_names)
    with pytest.raises(DeltaviError, match=r"no old format"):
        VAE.convert_legacy_save("a", "b")


def test_a_query_is_mapped_with_the_arguments_of_scvi_tools() -> None:
    fit = fitted(VAE)
    query = small_adata(seed=1)
    query.obs["batch"] = "new"
    free = VAE.load_query_data(query.copy(), fit, unfrozen=True, accelerator="cpu", device="auto")
    assert all(weights.requires_grad for weights in free.module.parameters())
    frozen = VAE.load_query_data(query, fit)
    assert not all(weights.requires_grad for weights in frozen.module.parameters())


def test_names_of_scgen_point_to_those_of_this_package() -> None:
    fit = fitted(SCGEN)
    assert not hasattr(fit, "predict")
    with pytest.raises(AttributeError, match=r"SCGEN has no attribute 'predict': call predict_perturbation"):
        fit.predict(ctrl_key="control", stim_key="stimulated")
    with pytest.raises(AttributeError, match=r"SCGEN has no attribute 'nothing'[.]"):
        _ = fit.nothing


@pytest.mark.parametrize("labels", [{"B", "type 0"}, {"type 0": 1}.keys(), ("type 0",)])
def test_labels_may_come_in_any_collection(labels: Any) -> None:
    fit: SCGEN = fitted(SCGEN)
    known = sorted(fit._categories("labels"))
    asked = type(labels)(known[:2]) if isinstance(labels, set | tuple) else dict.fromkeys(known[:2]).keys()
    predicted: AnnData = fit.predict_perturbation(control="control", perturbation="stimulated", labels=asked)
    assert sorted(set(predicted.obs["cell_type"])) == known[:2]


@pytest.mark.parametrize("cls", classes_of())
def test_an_argument_of_another_package_is_answered_at_setup(cls: Any) -> None:
    own = {"labels_key": "cell_type"} if entry_of(cls).annotates else {}
    with pytest.raises(
        UnknownArgumentError, match=r"setup_anndata has no argument 'perturbation_key'. Pass condition_"
    ):
        cls.setup_anndata(small_adata(), perturbation_key="condition", **own)
    with pytest.raises(UnknownArgumentError, match=r"Did you mean 'layer'"):
        cls.setup_anndata(small_adata(), layers="counts", **own)


@pytest.mark.parametrize("name", ["LABELVI", "MIXVI", "ACTINN", "VAE"])
def test_a_module_that_hands_keywords_on_answers_by_its_own_name(name: str) -> None:
    module_class = getattr(module, name)
    with pytest.raises(UnknownArgumentError, match=rf"^(deltavi\.module\.)?{name} has no argument 'n_hiden'.*n_hidden"):
        module_class(**NEEDED[name], n_hiden=8)


NEEDED: dict[str, dict[str, int]] = {
    "VAE": {"n_input": 5},
    "ACTINN": {"n_input": 5, "n_labels": 2},
    "LABELVI": {"n_input": 5, "n_labels": 2},
    "MIXVI": {"n_input": 5, "n_components": 3},
}
