"""Former names of arguments and values: refused, with today's."""

from __future__ import annotations

import pytest

from deltavi._entries import choice, known_keywords
from deltavi._former_names import ARGUMENTS, VALUES, current_init
from deltavi.errors import DeltaviError, UnknownArgumentError
from deltavi.model import MIXVI, SCGEN
from deltavi.perturbation import estimate_shift
from deltavi.tl import Method
from tests.model.conftest import small_adata

FORMER = [(old, new) for old, names in ARGUMENTS.items() for new in names]


@pytest.mark.parametrize(("old", "new"), FORMER)
def test_a_former_argument_is_refused_with_the_new_name(old: str, new: str) -> None:
    with pytest.raises(UnknownArgumentError, match=f"has no argument {old!r}. Did you mean {new!r}"):
        known_keywords([old], ["a", new], among="f")
    # where no argument took its place the nearest is offered, or none
    with pytest.raises(UnknownArgumentError, match="Known: 'something'"):
        known_keywords([old], ["something"], among="f")


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, names in VALUES.items() for new in names])
def test_a_former_value_is_refused_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(DeltaviError, match=f"Did you mean {new!r}"):
        choice("output", old, ["something", new])


@pytest.mark.parametrize("model", [SCGEN, MIXVI])
def test_a_prediction_in_former_words_is_told_today_s(model: type) -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'empirical_weight'"):
        Method(model, predict={"": {"consensus": 0.5}})
    with pytest.raises(DeltaviError, match="Did you mean 'mean'"):
        Method(model, predict={"": {"output": "decoded"}})


def test_functions_of_arrays_tell_as_well() -> None:
    with pytest.raises(DeltaviError, match="Did you mean 'gp'"):
        estimate_shift([[0.0], [1.0]], is_control=[True, False], is_perturbed=[False, True], estimator="kriging")
    with pytest.raises(UnknownArgumentError, match="Did you mean 'bandwidth'"):
        estimate_shift([[0.0]], is_control=[True], temperature=0.2)
    with pytest.raises(UnknownArgumentError, match="Did you mean 'is_perturbed'"):
        estimate_shift([[0.0]], is_control=[True], is_target=[True])


def test_arguments_in_model_files_have_today_s_names_unless_the_class_has_its_own() -> None:
    stored = {"warmup": 0.2, "release_labels": 0.6, "n_latent": 3}
    known = ["n_latent", "prior_warmup", "drop_labels_after"]
    assert current_init(stored, known) == {"prior_warmup": 0.2, "drop_labels_after": 0.6, "n_latent": 3}
    assert current_init(stored, ["warmup", *known])["warmup"] == 0.2
    assert current_init(stored, ["n_latent"]) == stored


def test_former_arguments_of_a_model_are_told_today_s() -> None:
    adata = small_adata()
    MIXVI.setup_anndata(adata)
    for old, new in {"warmup": "prior_warmup", "release_labels": "drop_labels_after"}.items():
        with pytest.raises(UnknownArgumentError, match=f"Did you mean {new!r}"):
            MIXVI(adata, **{old: 0.5})
