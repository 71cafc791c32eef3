"""Skill by kind: sums of measured perturbations are judged by sums, unseen perturbations by unseen ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deltavi.perturbation import ResponseModel, ResponseTable
from deltavi.perturbation.crossed_kinds import expected_skill, kinds_of, skill_of_new, skills_of_pairs
from deltavi.perturbation.crossed_loo import leave_one_out
from deltavi.perturbation.crossed_skill import Skill, skill_of
from tests.perturbation.crossed_scenes import scene, structured

N_SINGLES = 8


def of_one_context(seed: int, *, n_genes: int = 80, generic: float = 0.0) -> ResponseTable:
    """Unrelated perturbations, measured alone and in pairs that add up, in one context."""
    rng = np.random.default_rng(seed)
    asked = [[p] for p in range(N_SINGLES)] + [[p, p + 1] for p in range(N_SINGLES - 1)]
    parts = np.zeros((len(asked), N_SINGLES))
    for row, own in enumerate(asked):
        parts[row, own] = 1
    base = scene(seed, 1, N_SINGLES, n_genes, complete=True)
    sizes = rng.normal(size=(N_SINGLES, n_genes)) + generic * rng.normal(size=n_genes)
    noise = rng.normal(size=(len(asked), n_genes)) * 0.05
    return replace(
        base,
        changes=parts @ sizes + noise,
        context_of=np.zeros(len(asked), dtype=np.intp),
        parts=parts,
        n_perturbed=np.full(len(asked), 400),
        n_control=np.full(1, 4000),
        variances=np.ones((1, n_genes)),
    )


def test_kinds_follow_what_was_measured_beside() -> None:
    table = of_one_context(0)
    rows = np.array([table.parts_of(name)[0] for name in ("drug 0", "drug 0+drug 5", "drug 0", "drug 0+other")])
    assert kinds_of(table, rows, np.array([0, 0, 1, 1])) == ["pair", "combination", "perturbation", "perturbation"]
    left_out = kinds_of(table, table.parts, np.zeros(table.n_pairs), left_out=True)
    assert left_out == ["pair"] * N_SINGLES + ["combination"] * (N_SINGLES - 1)
    alone = table.of_pairs(np.arange(N_SINGLES))
    assert set(kinds_of(alone, alone.parts, np.zeros(N_SINGLES), left_out=True)) == {"perturbation"}


def test_a_combination_is_no_sum_until_its_parts_were_measured_alone() -> None:
    table = of_one_context(0)
    # without drug 0 alone it is known from drug 0+drug 1 only
    kept = table.of_pairs(np.arange(table.n_pairs) != 0)
    row = table.parts_of("drug 0+drug 5")[0][None]
    assert kinds_of(kept, row, np.zeros(1)) == ["pair"]
    assert kinds_of(kept, kept.parts, np.zeros(kept.n_pairs), left_out=True)[N_SINGLES - 1] == "perturbation"


def test_the_skill_of_sums_is_foretold_by_sums() -> None:
    table = of_one_context(1)
    held = N_SINGLES + 2
    model = ResponseModel.fit(table.of_pairs(np.arange(table.n_pairs) != held))
    found = model.predict(table.names[held], context=table.contexts[0])
    truth = skill_of(table.of_pairs([held, held]), np.repeat(found.change, 2, axis=0), np.arange(2)).explained
    assert truth > 0.9
    assert abs(found.expected_skill - truth) < 0.1
    # what is left out without any pair of its parts cannot be foretold, and must not count
    assert model.expected_skill["perturbation"] < 0.3


@pytest.mark.parametrize("generic", [0.0, 3.0])
def test_the_skill_of_an_unseen_perturbation_is_foretold_by_leaving_some_out(generic: float) -> None:
    table = of_one_context(2, generic=generic)
    table = table.of_pairs(np.arange(N_SINGLES))
    seen = ResponseModel.fit(table.of_pairs(np.arange(N_SINGLES - 1)))
    found = seen.predict("drug 7", context=table.contexts[0])
    truth = 1 - ((found.change[0] - table.changes[-1]) ** 2).sum() / (table.changes[-1] ** 2).sum()
    assert found.expected_skill == seen.expected_skill["perturbation"]
    assert abs(found.expected_skill - truth) < 0.2
    assert (found.expected_skill > 0.5) == (generic > 0)


def test_skill_of_new_is_that_of_models_without_the_perturbation() -> None:
    table = structured(3)
    model = ResponseModel.fit(table)
    process = model.fitted.process
    found = skill_of_new(process, table)
    assert found is not None
    single = np.flatnonzero(table.parts.sum(1) == 1)
    for place, part in enumerate(np.unique(table.parts[single].argmax(1))):
        rows = single[table.parts[single, part] > 0]
        others = process.on(table.of_pairs(table.parts[:, part] == 0))
        without = ResponseModel(replace(model.fitted, process=others))
        places = [table.contexts[context] for context in table.context_of[rows]]
        change = np.concatenate([without.predict("nobody measured it", context=of_row).change for of_row in places])
        expected = skill_of(table.of_pairs(rows), change, np.zeros(len(rows), dtype=np.intp))
        assert found.errors[place] == pytest.approx(expected.errors[0], rel=1e-8)


def test_both_new_is_no_better_than_either() -> None:
    skills = {
        "context": Skill(np.array([0.5, 0.5]), np.ones(2)),
        "pair": Skill(np.array([0.1, 0.1]), np.ones(2)),
        "perturbation": Skill(np.array([0.9, 0.9]), np.ones(2)),
    }
    asked = {
        ("pair", False): 0.9,
        ("combination", False): 0.9,
        ("pair", True): 0.5,
        ("perturbation", True): 0.1,
        ("perturbation", False): 0.1,
    }
    for (kind, is_new), explained in asked.items():
        assert expected_skill(skills, kind, is_new_context=is_new).explained == pytest.approx(explained)
    del skills["context"]
    assert np.isnan(expected_skill(skills, "perturbation", is_new_context=True).explained)
    assert np.isnan(expected_skill({}, "pair", is_new_context=False).explained)


def test_several_perturbations_have_the_skills_of_their_kinds() -> None:
    table = of_one_context(4)
    model = ResponseModel.fit(table)
    found = model.predict(["drug 0", "drug 0+drug 5", "drug 99"], context=table.contexts[0])
    of_kinds = [model.expected_skill[kind] for kind in ("pair", "combination", "perturbation")]
    assert found.expected_skills.tolist() == of_kinds
    assert found.expected_skill == min(of_kinds)
    assert found.n_groups == N_SINGLES


def test_pairs_with_a_part_of_their_own_have_no_skill() -> None:
    alone = of_one_context(5).of_pairs(np.arange(N_SINGLES))
    process = ResponseModel.fit(alone).fitted.process
    assert skills_of_pairs(alone, leave_one_out(process)) == {}
