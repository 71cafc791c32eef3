"""Bad input to MIXVI, with labels and without: what a user may hand over by mistake, and what must happen."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from torch.distributions import Normal, kl_divergence

from deltavi.errors import (
    DeltaviError,
    InputDataError,
    InputDataWarning,
    LabelWarning,
    MixtureWarning,
    UnknownCategoryError,
    UnseenCategoryWarning,
)
from deltavi.latent import Usage
from deltavi.model._base import CountModel
from deltavi.model._label_column import label_codes
from deltavi.model._mixvi import MIXVI
from tests.model.conftest import QUIET, SETUP, dense, small_adata

SMALL: dict[str, Any] = {"n_hidden": 16, "n_latent": 4}
LABELS: dict[str, Any] = {"labels_key": "cell_type"}
SWITCH = {"control": "control", "perturbation": "stimulated"}
UNLABELLED = {key: value for key, value in SETUP.items() if key != "labels_key"}
TYPES = ["type_1", "type_2", "type_3"]


def untrained(adata: AnnData, setup: dict[str, Any], **kwargs: Any) -> MIXVI:
    MIXVI.setup_anndata(adata, **setup)
    return MIXVI(adata, **{**SMALL, "n_components": 4, **kwargs})


def fitted(adata: AnnData, setup: dict[str, Any], *, epochs: int = 2, **kwargs: Any) -> MIXVI:
    model = untrained(adata, setup, **kwargs)
    model.train(max_epochs=epochs, batch_size=32, **QUIET)
    return model


def with_column(key: str, values: Any) -> AnnData:
    adata = small_adata()
    adata.obs[key] = values if isinstance(values, pd.Series) else pd.Series(values, adata.obs_names)
    return adata


def types(change: Callable[[pd.Series], Any] = lambda labels: labels) -> AnnData:
    """Cells with another column of types, made of the first as text."""
    return with_column("cell_type", change(small_adata().obs["cell_type"].astype(str).astype(object)))


@pytest.fixture(scope="module")
def labelled() -> MIXVI:
    """Labels, conditions and batches; not to be changed."""
    return fitted(small_adata(), SETUP, conditional=True, n_components=5)


@pytest.fixture(scope="module")
def clusters() -> MIXVI:
    """The same without labels."""
    return fitted(small_adata(), UNLABELLED, conditional=True)


# -- columns that cannot be learned from ---------------------------------------------------------------------


def missing(key: str) -> AnnData:
    return with_column(key, small_adata().obs[key].astype(str).where(np.arange(144) >= 5))


UNKNOWN = {**LABELS, "unlabeled_category": "unknown"}
ONE = types(lambda labels: labels.where(labels == "type_1"))
RENAMED = types(lambda labels: labels.replace("type_1", "unknwon"))
FILL = r"5 of 144 cells \(for example 'CELL000001'.*Fill it in or remove"
USELESS: dict[str, tuple[AnnData, dict[str, Any], type[Exception], str]] = {
    "unlabelled": (
        types(lambda _: ["unknown"] * 144),
        UNKNOWN,
        DeltaviError,
        "none of the 144 .*'CELL000001'.*least 2",
    ),
    "missing": (
        types(lambda _: [None] * 144),
        LABELS,
        DeltaviError,
        r"obs\['cell_type'\]: none of the 144.*leave labels_key out",
    ),
    "one": (ONE, LABELS, DeltaviError, r"obs\['cell_type'\].*'type_1', in 48 of 144.*at least 2.*another column"),
    "slip": (
        RENAMED,
        UNKNOWN,
        UnknownCategoryError,
        r"not in obs\['cell_type'\]. Did you mean 'unknwon', which 48 cells",
    ),
    "no such labels": (small_adata(), {"labels_key": "celltype"}, UnknownCategoryError, "'celltype'.*mean 'cell_type'"),
    "unlabelled name alone": (small_adata(), {"unlabeled_category": "unknown"}, DeltaviError, "labels_key: pass both"),
    "batch": (missing("batch"), {"batch_key": "batch"}, InputDataError, rf"obs\['batch'\] .*{FILL}"),
    "condition": (missing("condition"), {"condition_key": "condition"}, InputDataError, rf"obs\['condition'\].*{FILL}"),
}


@pytest.mark.parametrize(("adata", "setup", "error", "message"), USELESS.values(), ids=USELESS)
def test_columns_that_cannot_be_learned_from(
    adata: AnnData, setup: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MIXVI.setup_anndata(adata.copy(), **setup)


@pytest.mark.parametrize(
    ("key", "values", "release", "message"),
    [
        (
            "c",
            ["a", "b"] * 68 + ["a"] + [None] * 7,
            0.5,
            r"7 cells have no value in obs\['c'\] \(for example 'CELL000138'.*leave these out",
        ),
        ("c", ["a"] * 144, 0.5, r"obs\['c'\] holds one label only, 'a', in 144.*at least 2"),
        ("leiden", ["a", "b"] * 72, 0.5, "'leiden' is not in the data.*'cell_type'"),
        ("c", ["a", "b"] * 72, -0.1, r"drop_labels_after .*from 0 to 1, not -0.1"),
        ("c", ["a", "b"] * 72, 1.1, r"drop_labels_after .*from 0 to 1, not 1.1"),
        ("c", ["a", "b"] * 72, float("nan"), r"drop_labels_after .*from 0 to 1, not nan"),
    ],
)
def test_clusters_that_are_none(key: str, values: list[str | None], release: float, message: str) -> None:
    with pytest.raises(DeltaviError, match=message):
        MIXVI.from_clusters(with_column("c", values), key, drop_labels_after=release, **SMALL)


# -- labels that may not be what was meant -------------------------------------------------------------------


def named(names: dict[str, Any]) -> AnnData:
    return types(lambda labels: labels.map(lambda label: names.get(label, label)))


def with_few(name: str, *cells: int) -> AnnData:
    return types(lambda labels: labels.mask(np.isin(np.arange(144), cells), name))


CASE = r"1 pairs .* differ only by case, spaces or decimals \('Type_1 ' and 'type_1'\)"
SINGLE = r"1 of 4 .* a single cell \('rare'\)"
UNUSED = types(lambda labels: pd.Series(pd.Categorical(labels, ["never", *TYPES]), labels.index))
READ: dict[str, tuple[AnnData, str | None, list[str], str | None]] = {
    "unused category": (UNUSED, None, TYPES, None),
    "missing": (types(lambda labels: labels.where(np.arange(144) > 19)), None, TYPES, None),
    "no unlabelled cell": (types(), "nowhere", TYPES, None),
    "numbers": (named({"type_1": 1, "type_2": 2, "type_3": -1}), "-1", ["1", "2"], None),
    "text and numbers": (named({"type_1": 7}), None, ["7", "type_2", "type_3"], "mixes labels of 2 types: .*as text"),
    "case and spaces": (with_few("Type_1 ", 0, 5, 9, 50), None, ["Type_1 ", *TYPES], CASE),
    "single cell": (with_few("rare", 0), None, ["rare", *TYPES], SINGLE),
}


@pytest.mark.parametrize(("adata", "unlabelled", "names", "warning"), READ.values(), ids=READ)
def test_labels_that_are_read_with_care(
    adata: AnnData, unlabelled: str | None, names: list[str], warning: str | None
) -> None:
    expected = pytest.warns(LabelWarning, match=rf"obs\['cell_type'\].*{warning}") if warning else nullcontext()
    with expected:
        model = fitted(adata.copy(), {**LABELS, "unlabeled_category": unlabelled}, n_components=None)
    assert list(model.label_names) == names
    assert model.module.n_components == len(names) + 5
    assert model.component_names[: len(names)].tolist() == names
    probabilities = model.predict(soft=True)
    assert list(probabilities) == names
    assert np.isfinite(probabilities).all().all()
    codes = label_codes(model)
    # no label is left to validation alone
    assert set(codes[model.train_indices]) >= set(range(len(names)))


def test_how_many_cells_have_no_label_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="deltavi"):
        MIXVI.setup_anndata(types(lambda labels: labels.where(np.arange(144) > 19)), **LABELS)
        MIXVI.setup_anndata(types(), **LABELS, unlabeled_category="nowhere")
    assert "obs['cell_type'] is missing for 20 of 144 cells; they are unlabelled" in caplog.text
    assert "every cell is labelled, none is called 'nowhere'" in caplog.text


@pytest.mark.parametrize("seed", range(4))
def test_a_label_of_two_cells_is_learned(seed: int) -> None:
    model = fitted(with_few("rare", 10, 90), LABELS, epochs=1, n_components=None, seed=seed)
    assert {10, 90} & set(model.train_indices)


# -- queries -------------------------------------------------------------------------------------------------


def query_of(**columns: str) -> AnnData:
    """Other cells, with values in place of some columns."""
    query = small_adata(seed=1)
    query.obs_names = "query-" + query.obs_names
    for key, value in columns.items():
        query.obs[key] = value
    return query


def lacking(query: AnnData, key: str) -> AnnData:
    return AnnData(query.X, query.obs.drop(columns=key), query.var)


def test_labels_of_a_query_that_training_never_saw_are_ignored(labelled: MIXVI) -> None:
    query = query_of(cell_type="neuron")
    bare = lacking(query, "cell_type")
    assert labelled.predict(query, soft=True).equals(labelled.predict(bare, soft=True))
    assert labelled.predict(query, keep_observed=True).equals(labelled.predict(bare))
    for route in ("z", "w"):
        with_label, without = (labelled.predict_perturbation(q, **SWITCH, shift=route) for q in (query, bare))
        np.testing.assert_array_equal(with_label.layers["rate"], without.layers["rate"])


@pytest.mark.parametrize("kind", ["labelled", "clusters"])
def test_an_unseen_batch_or_condition_is_the_average_of_the_known(kind: str, request: pytest.FixtureRequest) -> None:
    model: MIXVI = request.getfixturevalue(kind)
    query = query_of(condition="unheard of")
    with pytest.warns(UnseenCategoryWarning, match=r"144 cells have no condition that training saw.*'control', 'stim"):
        bare = model.get_responsibilities(lacking(query, "condition"))
    with pytest.warns(UnseenCategoryWarning, match="144 cells have no condition"):
        assert model.get_responsibilities(query).equals(bare)
    assert not np.allclose(model.get_responsibilities(query_of()), bare)
    with pytest.warns(UnseenCategoryWarning, match=r"obs\['batch'\].*'elsewhere'.*144 cells.*load_query_data"):
        shares = model.get_responsibilities(query_of(batch="elsewhere"))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_unknown_conditions_and_labels_of_a_prediction(labelled: MIXVI, clusters: MIXVI) -> None:
    for route in ("z", "w", "similarity"):
        with pytest.raises(UnknownCategoryError, match=r"label 'type_9'.*Did you mean 'type_3'.*Known: 'type_1'"):
            labelled.predict_perturbation(**SWITCH, shift=route, labels="type_9")
        with pytest.raises(DeltaviError, match="labels is empty"):
            labelled.predict_perturbation(**SWITCH, shift=route, labels=[])
        with pytest.raises(UnknownCategoryError, match=r"condition 'stimulate'.*Did you mean 'stimulated'"):
            labelled.predict_perturbation(control="control", perturbation="stimulate", shift=route)
        with pytest.raises(DeltaviError, match=r"labels='type_1' was asked for, but .* no label column"):
            clusters.predict_perturbation(**SWITCH, shift=route, labels="type_1")


# -- conditions ----------------------------------------------------------------------------------------------


def test_a_condition_that_is_none() -> None:
    adata = with_column("condition", pd.Series(pd.Categorical(["a"] * 144, ["a", "b"]), small_adata().obs_names))
    MIXVI.setup_anndata(adata, condition_key="condition")
    MIXVI(adata, **SMALL)
    with pytest.warns(InputDataWarning, match=r"obs\['condition'\] holds one condition only"):
        model = MIXVI(adata, conditional=True, **SMALL)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    with pytest.raises(UnknownCategoryError, match="'b'"):
        model.predict_perturbation(control="a", perturbation="b", shift="z")
    with pytest.raises(DeltaviError, match=r"conditional=True.*condition_key"):
        untrained(small_adata(), LABELS, conditional=True)


# -- cells ---------------------------------------------------------------------------------------------------


def test_empty_cells_of_clusters_and_labels() -> None:
    adata = small_adata()
    x = dense(adata.X)
    x[[3, 90]] = 0
    adata.X = sparse.csr_matrix(x)
    for setup in (LABELS, {}):
        with pytest.warns(InputDataWarning, match="2 cells have no counts at all"):
            model = fitted(adata.copy(), setup)
        shares = model.get_responsibilities()
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
        assert np.isfinite(model.get_kl_per_dimension()).all()
        if setup:
            with pytest.warns(InputDataWarning, match="2 cells have no counts at all"):
                assert model.predict().iloc[[3, 90]].tolist() == ["unassigned"] * 2


def test_every_cell_twice() -> None:
    adata = small_adata()
    twice = AnnData(np.repeat(dense(adata.X), 2, 0), pd.DataFrame(index=[f"c{i}" for i in range(288)]), adata.var)
    model = fitted(twice, {})
    shares = model.get_responsibilities().to_numpy()
    np.testing.assert_allclose(shares[::2], shares[1::2], atol=1e-6)
    assert np.isfinite(shares).all()


@pytest.mark.parametrize("n_components", [3, 6])
def test_cells_that_are_all_alike_have_labels_for_components(n_components: int) -> None:
    adata = small_adata()
    adata.X = np.full(adata.shape, 2.0, dtype=np.float32)
    model = fitted(adata, LABELS, n_components=n_components)
    shares = model.get_responsibilities().to_numpy()
    np.testing.assert_allclose(shares, np.broadcast_to(shares[0], shares.shape), atol=1e-5)


# -- numbers of components (rows 74 and 75) ------------------------------------------------------------------


def test_one_component_is_a_gaussian_that_is_learned() -> None:
    model = fitted(small_adata(), UNLABELLED, n_components=1, y_prior="uniform", epochs=4)
    assert set(model.predict()) == {"component 0"}
    assert (model.get_responsibilities().to_numpy() == 1).all()
    assert model.usage_.shares == (1.0,)
    mean, variance = model.get_latent_representation(return_dist=True)
    mixture = model.module.mixture
    prior = Normal(mixture.loc[0].detach(), (mixture.log_variance[0].detach().exp() + 1e-4).sqrt())
    expected = kl_divergence(Normal(torch.from_numpy(mean), torch.from_numpy(variance).sqrt()), prior).mean(0)
    np.testing.assert_allclose(model.get_kl_per_dimension(), expected, rtol=1e-3)
    # placed where the cells lie, not at the standard normal
    assert np.abs(mean.mean(0)).max() > np.abs(mean.mean(0) - prior.loc.numpy()).max()


@pytest.mark.parametrize(
    ("n_cells", "setup", "n_components", "message"),
    [
        (3, {}, 4, "4 components are more than the 3 training cells: .*n_components"),
        (20, {}, 30, "30 components are more than the 18 training cells"),
        (20, LABELS, 30, "30 components are more than the .* training cells"),
        (144, LABELS, 2, "n_components=2 .*there are 3. Ask for at least as many"),
        (144, {}, 0, "n_components must be a whole number of at least 1, not 0"),
        (144, {}, 2.5, "n_components must be a whole number of at least 1, not 2.5"),
    ],
)
def test_too_many_or_too_few_components(n_cells: int, setup: dict[str, Any], n_components: Any, message: str) -> None:
    cells = np.linspace(0, 143, n_cells).astype(int)
    with pytest.raises(DeltaviError, match=message):
        fitted(small_adata()[cells].copy(), setup, n_components=n_components)


def test_three_cells_are_enough_for_one_component() -> None:
    model = fitted(small_adata()[:3].copy(), {}, n_components=1)
    assert model.predict().tolist() == ["component 0"] * 3


def watched_collapse(monkeypatch: pytest.MonkeyPatch, n_collapses: int) -> list[tuple[Any, dict[str, Any]]]:
    """The first runs end with one component; seed and initial weights of every run."""
    runs: list[tuple[Any, dict[str, Any]]] = []
    train, usage = CountModel.train, Usage.of

    def watched(self: Any, max_epochs: int | None = None, **kwargs: Any) -> None:
        runs.append((kwargs.get("seed"), copy.deepcopy(self.module.state_dict())))
        train(self, max_epochs, **kwargs)

    def collapsed(cls: type[Usage], shares: torch.Tensor) -> Usage:
        return Usage((1.0,) + (0.0,) * (shares.shape[1] - 1)) if len(runs) <= n_collapses else usage(shares)

    monkeypatch.setattr(CountModel, "train", watched)
    monkeypatch.setattr(Usage, "of", classmethod(collapsed))
    return runs


@pytest.mark.parametrize("seed", [None, 0])
def test_a_collapsed_mixture_is_trained_again_from_where_it_began(
    seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_epochs": 3, "batch_size": 32, **QUIET}
    expected = untrained(small_adata(), UNLABELLED, seed=3)
    expected.train(seed=(3 if seed is None else seed) + 1, **options)
    runs = watched_collapse(monkeypatch, 1)
    model = untrained(small_adata(), UNLABELLED, seed=3)
    with pytest.warns(MixtureWarning, match=r"1\.0 of 4 components are used. Training starts again") as caught:
        model.train(seed=seed, **options)
    assert [one.category for one in caught if issubclass(one.category, MixtureWarning)] == [MixtureWarning]
    assert [used for used, _ in runs] == [seed, (3 if seed is None else seed) + 1]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())
    assert model.history["train_loss"].equals(expected.history["train_loss"])
    assert model.get_responsibilities().equals(expected.get_responsibilities())
    assert model.usage_ == expected.usage_


def test_a_second_collapse_warns_and_keeps_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = watched_collapse(monkeypatch, 9)
    model = untrained(small_adata(), UNLABELLED)
    with pytest.warns(MixtureWarning) as caught:
        model.train(max_epochs=2, batch_size=32, **QUIET)
    said = [str(one.message) for one in caught if issubclass(one.category, MixtureWarning)]
    assert ["starts again" in text for text in said] == [True, False]
    assert "cells may be of one kind" in said[1]
    assert len(runs) == 2
    assert len(model.predict()) == 144
    # training on is not starting anew
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert len(runs) == 3


@pytest.mark.parametrize(("setup", "n_components"), [(SETUP, 3), (UNLABELLED, 1)])
def test_a_mixture_that_cannot_collapse_is_trained_once(
    setup: dict[str, str], n_components: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = watched_collapse(monkeypatch, 9)
    fitted(small_adata(), setup, n_components=n_components)
    assert len(runs) == 1
