"""Every check that can be taken out is still in the source, where the script looks for it."""

from __future__ import annotations

import pytest

from tests.bad_input.bench import CASES
from tests.bad_input.mutations import MUTATIONS, Mutation
from tests.bad_input.registry import all_rows


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"row{one.row}-{one.file}-{one.old[:24].strip()}")
def test_what_a_mutation_replaces_is_found_once(mutation: Mutation) -> None:
    assert mutation.count() == 1
    assert mutation.new not in ("", mutation.old) or mutation.row == 25


def test_mutations_are_of_rows_and_models_that_there_are() -> None:
    concerned = {row.number: row.models for row in all_rows()}
    assert all(mutation.model in concerned[mutation.row] for mutation in MUTATIONS)
    assert {mutation.model for mutation in MUTATIONS} == set(CASES)
    assert len(MUTATIONS) == len(set(MUTATIONS))
