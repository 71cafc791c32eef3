"""Every check that can be taken out is still in the source, where the script looks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_input.bench import CASES
from tests.bad_input.mutated import Mutation, OwnTest
from tests.bad_input.mutations import MUTATIONS, OF_KINDS, OF_ROWS
from tests.bad_input.registry import all_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.name}-{one.file}-{one.old[:24].strip()}")
def test_what_a_mutation_replaces_is_found_once(mutation: Mutation | OwnTest) -> None:
    assert mutation.count() == 1
    assert mutation.new not in ("", mutation.old) or mutation.name == "25"


def test_mutations_are_of_rows_and_models_that_there_are() -> None:
    concerned = {row.number: row.models for row in all_rows()}
    assert all(mutation.model in concerned[mutation.row] for mutation in OF_ROWS)
    assert {mutation.model for mutation in OF_ROWS} == set(CASES)
    assert len(MUTATIONS) == len(set(MUTATIONS))


@pytest.mark.parametrize("mutation", OF_KINDS, ids=lambda one: f"{one.file}-{one.old[:24].strip()}")
def test_a_test_that_must_fail_is_there(mutation: OwnTest) -> None:
    path, _, rest = mutation.test.partition("::")
    name = rest.split("::")[-1].split("[")[0]
    assert f"def {name}(" in (ROOT / path).read_text()
