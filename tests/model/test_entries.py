"""Odd values at every public entry of models: read as what they stand for, or refused by the name of the argument."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltavi import module as modules
from deltavi.datasets import kang, simulate_perturbation
from deltavi.errors import DeltaviError, GeneMatchError, UnknownArgumentError, UnknownCategoryError
from deltavi.model import SCGEN, VAE
from deltavi.model.verbs import INHERITED, OWN
from deltavi.pp import highly_variable_genes, log_normalise, valid_cells
from deltavi.registry.genes import gene_positions
from tests.model.conftest import QUIET, SETUP, dense, log_normalised, small_adata
from tests.models import MODELS, PERTURBATION

ALL = pytest.mark.parametrize("name", MODELS)
# What a verb cannot do without, and what makes it quick.
NEEDED: dict[str, dict[str, Any]] = {
    "predict_perturbation": PERTURBATION,
    "predict_perturbations": {"control": PERTURBATION["control"]},
    "sample": {"n": 3},
    "merge_components": {"n_groups": 3},
    "differential_expression": {"groupby": "cell_type", "group1": "type_1", "silent": True, "n_samples_overall": 20},
    "get_marginal_ll": {"n_mc_samples": 2},
    "get_feature_correlation_matrix": {"n_samples": 2},
    "get_attributions": {"n_steps": 2, "indices": [0, 1]},
    "get_latent_library_size": {"give_mean": False},
}
# Objects that other code makes, which no entry reads.
LEFT_ALONE = ("dataloader", "data_loader_kwargs", "importance_weighting_kwargs", "self")
ODD: list[Any] = [
    *(None, True, np.True_, 0, 1, -1, 3, np.int64(2), np.uint8(2), 2.0, np.float32(0.5), 0.5, 1e300, 10**400, -7),
    *(
        float("nan"),
        float("inf"),
        "",
        "2",
        "none",
        b"2",
        [],
        [0],
        [1, 2],
        (0,),
        {0},
        {"a": 1},
        np.array(2),
        np.array([2]),
    ),
    *(
        torch.tensor(2),
        torch.tensor([1.0]),
        Decimal(2),
        Fraction(1, 2),
        2j,
        pd.NA,
        pd.NaT,
        pd.Timedelta(2),
        object(),
        int,
    ),
    *(
        np.timedelta64(2, "s"),
        np.ma.masked,
        np.ma.array([0, 1], mask=[0, 1]),
        slice(2),
        range(2),
        ...,
        [-1],
        [10**9],
        [True],
    ),
    *(np.ones((2, 2)), pd.Series([0, 1]), pd.DataFrame({"a": [0]}), lambda: None, AnnData),
]
odd = st.integers(0, len(ODD) - 1).map(ODD.__getitem__)
quick = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    return {name: entry.trained() for name, entry in MODELS.items()}


def verbs(model: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in (*INHERITED, *OWN):
        # that one takes what scvi-tools computes
        if hasattr(model, name) and name != "get_importance_weights":
            yield name, getattr(model, name)


def refusal(call: Callable[[], Any]) -> str | None:
    """Message of a refusal; other errors are none."""
    try:
        call()
    except DeltaviError as error:
        return str(error) or "(empty)"
    return None


def arguments_of(verb: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(verb).parameters.values()
    return [p.name for p in parameters if p.kind not in kinds and p.name not in LEFT_ALONE]


# What a message says in place of the name of an argument.
SAID = {
    **{
        "control": "condition",
        "perturbation": "condition",
        "labels": "label",
        "perturbations": "condition",
        "contexts": "context",
        "gene_list": "gene",
        "n_groups": "group",
    },
    **{"output": "output", "shift": "shift", "idx1": "idx1", "component": "component", "effect_scale": "effect_scale"},
}


def names_argument(message: str, argument: str) -> bool:
    return any(word in message for word in (argument, SAID.get(argument, argument), "part of"))


@ALL
def test_any_value_of_any_argument_of_a_verb(fitted: dict[str, Any], name: str) -> None:
    model = fitted[name]
    places = [(verb, call, arg) for verb, call in verbs(model) for arg in arguments_of(call)]

    @quick
    @given(place=st.sampled_from(range(len(places))), value=odd)
    def ask(place: int, value: Any) -> None:
        verb, call, argument = places[place]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = refusal(lambda: call(**{**NEEDED.get(verb, {}), argument: value}))
            # of what a model has not, with any argument
            always = None if said is None else refusal(lambda: call(**NEEDED.get(verb, {})))
        assert said is None or said == always or names_argument(said, argument), (verb, argument, value, said)

    ask()


SETTINGS = {
    name: [p for p in arguments_of(entry.model_class.__init__) if p not in ("adata", "registry")]
    for name, entry in MODELS.items()
}
FURTHER = ("dispersion", "library", "n_layers", "n_layers_decoder", "dropout_rate_decoder", "bias", "weight_l2")


@ALL
def test_any_value_of_any_setting_of_a_model(name: str) -> None:
    entry = MODELS[name]
    model_class, adata = entry.model_class, entry.cells()
    model_class.setup_anndata(adata, **entry.setup)
    of_counts = entry.decodes and entry.reads == "counts"
    known = [*SETTINGS[name], *(FURTHER if of_counts else ())]

    @quick
    @given(argument=st.sampled_from(known), value=odd)
    def make(argument: str, value: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = refusal(lambda: model_class(adata, **{**entry.init, argument: value}))
        assert said is None or names_argument(said, argument), (argument, value, said)

    make()


@pytest.mark.parametrize("module_class", [modules.VAE, modules.LABELVI, modules.MIXVI, modules.ACTINN])
def test_any_value_of_any_setting_of_a_module(module_class: Any) -> None:
    needed = {"n_input": 4, "n_labels": 2, **({"n_components": 3} if module_class is modules.MIXVI else {})}
    known = [p for p in arguments_of(module_class.__init__) if not p.startswith("library_log")]

    @quick
    @given(argument=st.sampled_from(known), value=odd)
    def make(argument: str, value: Any) -> None:
        said = refusal(lambda: module_class(**{**needed, argument: value}))
        assert said is None or names_argument(said, argument), (argument, value, said)

    make()


FUNCTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    highly_variable_genes: {"n_top": 5},
    log_normalise: {},
    valid_cells: {},
    simulate_perturbation: {"n_genes": 5, "n_cells_per_group": 1, "n_cell_types": 2},
    kang: {"path": "nowhere.h5ad"},
}


@quick
@given(function=st.sampled_from(list(FUNCTIONS)), value=odd, data=st.data())
def test_any_value_of_any_argument_of_the_data_functions(function: Any, value: Any, data: st.DataObject) -> None:
    argument = data.draw(st.sampled_from(arguments_of(function)))
    needed = {
        **FUNCTIONS[function],
        **({"adata": small_adata(n_genes=10, n_per_group=2)} if "adata" in arguments_of(function) else {}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = refusal(lambda: function(**{**needed, argument: value}))
    assert said is None or names_argument(said, argument), (function, argument, value, said)


# -- cells -----------------------------------------------------------------------------------------------------


def masks_of(mask: pd.Series) -> dict[str, Any]:
    return {
        "positions": np.flatnonzero(mask),
        "Series": mask,
        "another order": mask[::-1],
        "nullable": mask.astype("boolean"),
        "Arrow": mask.astype("bool[pyarrow]"),
        "list": mask.tolist(),
        "tensor": torch.tensor(mask.to_numpy()),
    }


ANSWERS: dict[str, Callable[[Any, Any], Any]] = {
    "get_elbo": lambda model, i: model.get_elbo(indices=i, return_mean=False),
    "get_normalized_expression": lambda model, i: model.get_normalized_expression(indices=i, return_numpy=True),
    "get_marginal_ll": lambda model, i: model.get_marginal_ll(indices=i, n_mc_samples=2, return_mean=False),
    "get_reconstruction_error": lambda model, i: model.get_reconstruction_error(indices=i)["reconstruction_loss"],
    "posterior_predictive_sample": lambda model, i: model.posterior_predictive_sample(indices=i).todense(),
    "get_likelihood_parameters": lambda model, i: model.get_likelihood_parameters(indices=i)["mean"],
    "get_feature_correlation_matrix": lambda model, i: model.get_feature_correlation_matrix(indices=i, n_samples=2),
    "differential_expression": lambda model, i: model.differential_expression(idx1=i, silent=True)["raw_mean1"],
    "get_latent_representation": lambda model, i: model.get_latent_representation(indices=i),
    "impute": lambda model, i: model.impute(indices=i),
    "predict": lambda model, i: model.predict(indices=i, soft=True),
    "get_novelty_scores": lambda model, i: model.get_novelty_scores(indices=i)["confidence"],
    "get_responsibilities": lambda model, i: model.get_responsibilities(indices=i),
    "get_kl_per_dimension": lambda model, i: model.get_kl_per_dimension(indices=i),
}


@pytest.mark.parametrize("verb", ANSWERS)
def test_a_mask_of_any_type_in_every_verb(fitted: dict[str, Any], verb: str) -> None:
    model = fitted["MIXVI"]
    masks = masks_of(model.adata.obs["cell_type"] == "type_1")
    expected = np.asarray(ANSWERS[verb](model, masks.pop("positions")))
    for kind, mask in masks.items():
        np.testing.assert_allclose(np.asarray(ANSWERS[verb](model, mask)), expected, rtol=1e-5, err_msg=kind)
    for wrong in (["c1", "c2"], [-1], [model.adata.n_obs], [True], [True, 2], [0.5], [[0]]):
        assert (refusal(lambda w=wrong: ANSWERS[verb](model, w)) or "").count("indices") or verb.startswith("diff")


@pytest.mark.parametrize("verb", [name for name in ANSWERS if name in INHERITED])
def test_no_cells_to_answer_for(fitted: dict[str, Any], verb: str) -> None:
    assert "chooses none" in (refusal(lambda: ANSWERS[verb](fitted["SCGEN"], [])) or "")


def test_a_query_is_asked_by_its_own_masks(fitted: dict[str, Any]) -> None:
    query = small_adata(seed=1)[:30].copy()
    query = query[:, ::-1].copy()
    mask = query.obs["cell_type"] == "type_1"
    found = fitted["SCGEN"].get_normalized_expression(query, indices=mask.sort_index(ascending=False))
    assert list(found.index) == list(query.obs_names[mask])
    with pytest.raises(DeltaviError, match="The mask indices has 144 entries for 30 cells"):
        fitted["SCGEN"].get_elbo(query, indices=[True] * 144)


def test_a_loader_brings_its_own_cells(fitted: dict[str, Any]) -> None:
    model = fitted["SCGEN"]
    loader = model._make_data_loader(adata=model.adata, indices=np.arange(9), batch_size=4)
    assert len(model.get_elbo(dataloader=loader, return_mean=False)) == 9
    for beside in ({"indices": [0]}, {"batch_size": 4}, {"adata": small_adata()}):
        with pytest.raises(DeltaviError, match=f"dataloader brings its own cells: leave out {next(iter(beside))}"):
            model.get_elbo(dataloader=loader, **beside)


# -- genes and batches -------------------------------------------------------------------------------------------


def test_genes_come_in_the_order_asked_for(fitted: dict[str, Any]) -> None:
    model = fitted["SCGEN"]
    full = model.get_normalized_expression()
    last, first = full.columns[-1], full.columns[0]
    for genes in ([last, first], pd.Index([last, first]), np.array([last, first]), (last, first)):
        pd.testing.assert_frame_equal(model.get_normalized_expression(gene_list=genes), full[[last, first]])
        array = model.get_normalized_expression(gene_list=genes, return_numpy=True)
        np.testing.assert_array_equal(array, full[[last, first]].to_numpy())
    assert list(model.get_normalized_expression(gene_list=last).columns) == [last]
    mask = full.columns.isin([first, last])
    assert list(model.get_normalized_expression(gene_list=mask).columns) == [first, last]
    drawn = model.posterior_predictive_sample(n_samples=2).todense()
    chosen = model.posterior_predictive_sample(n_samples=2, gene_list=[last, first]).todense()
    np.testing.assert_array_equal(chosen, drawn[:, [-1, 0]])


def test_genes_that_are_not_there(fitted: dict[str, Any]) -> None:
    for verb in ("get_normalized_expression", "posterior_predictive_sample"):
        with pytest.raises(GeneMatchError, match=r"1 genes of gene_list .*'gene0001'. Did you mean 'GENE0001'"):
            getattr(fitted["SCGEN"], verb)(gene_list=["GENE0002", "gene0001"])
    genes = pd.Index(["a", "b"])
    for nothing in ([], [False, False]):
        with pytest.raises(DeltaviError, match="gene_list names no gene"):
            gene_positions(nothing, genes)
    with pytest.raises(DeltaviError, match="The mask gene_list has 1 entries for 2 genes"):
        gene_positions([True], genes)
    with pytest.raises(DeltaviError, match="gene_list names 'a' more than once"):
        gene_positions(["a", "a"], genes)


def test_batches_that_are_not_there(fitted: dict[str, Any]) -> None:
    model = fitted["SCGEN"]
    for verb in ("get_normalized_expression", "posterior_predictive_sample", "get_feature_correlation_matrix"):
        with pytest.raises(UnknownCategoryError, match=r"transform_batch: the batch 'batch_9' .*Did you mean 'batch_"):
            getattr(model, verb)(transform_batch="batch_9")
    with pytest.raises(DeltaviError, match="transform_batch is empty"):
        model.get_normalized_expression(transform_batch=[])
    both = model.get_normalized_expression(transform_batch=["batch_1", "batch_2"])
    assert both.shape == (144, 40)


def test_options_of_draws_that_do_not_go_together(fitted: dict[str, Any]) -> None:
    ask = fitted["SCGEN"].get_normalized_expression
    assert ask(n_samples_overall=7).shape == (7, 40)
    with pytest.raises(DeltaviError, match="n_samples and n_samples_overall"):
        ask(n_samples=2, n_samples_overall=7)
    with pytest.raises(DeltaviError, match="leave return_numpy out"):
        ask(n_samples_overall=7, return_numpy=False)
    with pytest.raises(DeltaviError, match="pass n_samples_overall"):
        ask(weights="importance")


def test_answers_do_not_change_from_call_to_call(fitted: dict[str, Any]) -> None:
    model, state = fitted["SCGEN"], torch.get_rng_state()
    np.testing.assert_array_equal(*(model.get_normalized_expression(return_numpy=True) for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), state)


# -- comparisons -------------------------------------------------------------------------------------------------


def test_groups_that_are_not_there(fitted: dict[str, Any]) -> None:
    compare = fitted["SCGEN"].differential_expression
    with pytest.raises(UnknownCategoryError, match=r"group1: the group 'Type1' .*Did you mean 'type_1'"):
        compare(groupby="cell_type", group1="Type1")
    with pytest.raises(UnknownCategoryError, match="group2: the group 'typo' is not in the data"):
        compare(groupby="cell_type", group1="type_1", group2="typo")
    with pytest.raises(UnknownCategoryError, match=r"groupby: the obs column 'celltype' .*Did you mean 'cell_type'"):
        compare(groupby="celltype")
    with pytest.raises(DeltaviError, match=r"idx1='cell_typ == 1' is no query of obs: .*Columns: .*'cell_type'"):
        compare(idx1="cell_typ == 1")
    with pytest.raises(UnknownArgumentError, match=r"no argument 'pseudocount'. Did you mean 'pseudocounts'"):
        compare(groupby="cell_type", pseudocount=1)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "Name the groups to compare"),
        ({"idx2": [0]}, "pass idx1 as well"),
        ({"idx1": [0], "groupby": "cell_type"}, "leave out groupby"),
        ({"idx1": [0, 1], "idx2": [1, 2]}, "1 cells are in idx1 and in idx2"),
        ({"idx1": []}, "idx1 chooses none of 144 cells"),
        ({"idx1": [True] * 144}, "idx1 chooses all cells"),
        ({"idx1": "total_counts"}, "true of no cell"),
        ({"groupby": "cell_type", "group1": []}, "group1 is empty"),
        ({"groupby": "cell_type", "group1": "type_1", "group2": "type_1"}, "both 'type_1'"),
        ({"groupby": "cell_type", "group1": "type_1", "group2": ["type_2", "type_3"]}, "group2 must be one group"),
        ({"groupby": "cell_type", "batchid1": ["batch_1"]}, "pass batch_correction=True"),
        ({"groupby": "cell_type", "batch_correction": True, "batchid1": ["batch_1"]}, "go together"),
        ({"groupby": "cell_type", "mode": "chnage"}, "mode must be one of"),
    ],
)
def test_groups_that_say_too_little_or_too_much(fitted: dict[str, Any], asked: dict[str, Any], words: str) -> None:
    with pytest.raises(DeltaviError, match=words):
        fitted["SCGEN"].differential_expression(**asked, silent=True)
    assert "_scvi_temp_de" not in fitted["SCGEN"].adata.obs


def test_queries_and_unused_categories(fitted: dict[str, Any]) -> None:
    model = fitted["SCGEN"]
    by_query = model.differential_expression(idx1="cell_type == 'type_1'", silent=True)
    by_mask = model.differential_expression(idx1=model.adata.obs["cell_type"] == "type_1", silent=True)
    pd.testing.assert_frame_equal(by_query, by_mask)
    query = small_adata(seed=2)
    kinds = ["none", "type_1", "type_2", "type_3"]
    query.obs["kind"] = pd.Categorical(query.obs["cell_type"].astype(str), categories=kinds)
    found = model.differential_expression(query, groupby="kind", silent=True)
    assert set(found["group1"]) == {"type_1", "type_2", "type_3"}
    with pytest.raises(DeltaviError, match="has one group of cells"):
        model.differential_expression(query[query.obs["kind"] == "type_1"].copy(), groupby="kind", silent=True)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal", "bernoulli"])
def test_parameters_of_every_likelihood(likelihood: str) -> None:
    adata = small_adata()
    if likelihood == "normal":
        adata = log_normalised(adata)
    if likelihood == "bernoulli":
        adata.X = (adata.X > 0).astype(np.float32)
    VAE.setup_anndata(adata)
    model = VAE(adata, gene_likelihood=likelihood, **MODELS["VAE"].init)
    model.train(max_epochs=1, batch_size=64, **QUIET)
    found = model.get_likelihood_parameters(indices=range(9), n_samples=3, give_mean=True)
    further = {"nb": ["dispersions"], "zinb": ["dropout", "dispersions"], "normal": ["scale"]}
    assert list(found) == ["mean", *further.get(likelihood, [])]
    assert all(values.shape == (9, 40) and np.isfinite(values).all() for values in found.values())
    assert model.get_likelihood_parameters(n_samples=2)["mean"].shape == (2, 144, 40)
    if likelihood in ("nb", "zinb"):
        assert model.get_feature_correlation_matrix(n_samples=2).shape == (40, 40)
    else:
        with pytest.raises(DeltaviError, match=f"the likelihood is '{likelihood}'"):
            model.get_feature_correlation_matrix(n_samples=2)
    assert model.posterior_predictive_sample().shape == (144, 40)


# -- numbers, devices, text ---------------------------------------------------------------------------------------


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    adata = small_adata()
    SCGEN.setup_anndata(adata, **SETUP)
    model = SCGEN(
        adata, seed=np.int64(3), n_latent=torch.tensor(2), n_hidden=np.uint8(8), dropout_rate=np.float32(0.25)
    )
    assert (model.seed, model.module.n_latent) == (3, 2)
    model.train(max_epochs=np.int64(1), batch_size=np.float64(64), seed=np.int32(1), **QUIET)
    options = {"shift_scale": np.float32(1), "effect_scale": np.array(1), "seed": np.int64(3), "n_samples": np.uint8(1)}
    found, plain = (
        model.predict_perturbation(**PERTURBATION, **given)
        for given in (options, {"shift_scale": 1.0, "effect_scale": 1, "seed": 3})
    )
    np.testing.assert_array_equal(dense(found.X), dense(plain.X))


@pytest.mark.parametrize("size", [0, 1, -5, "32", 2.5, True, None])
def test_sizes_of_mini_batches(fitted: dict[str, Any], size: Any) -> None:
    if size is not None:
        with pytest.raises(DeltaviError, match=r"batch_size must be a whole number of at least 2, not "):
            fitted["SCGEN"].train(max_epochs=1, batch_size=size, **QUIET)
    if size not in (1, None) or isinstance(size, bool):
        with pytest.raises(DeltaviError, match=r"batch_size must be a whole number of at least 1, not "):
            fitted["SCGEN"].impute(batch_size=size)


def test_a_model_is_shown_as_text(fitted: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    shown = repr(fitted["SCGEN"])
    assert "SCGEN" in shown
    assert "nb likelihood" in shown
    assert "trained" in shown
    assert capsys.readouterr().out == ""
