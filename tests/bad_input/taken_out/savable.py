"""Checks of what is accepted and must be savable, and degenerate scales."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

COPIES, SAVABLE, TEXT = "tests/model/test_copies.py::", "tests/model/test_savable.py::", "tests/registry/test_text.py::"
COLUMNS, GIVEN, COPY = "registry/columns.py", "model/_given.py", "model/_copies.py"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(
        TEXT + "test_values_without_a_text_of_their_own_are_refused", COLUMNS, "if not is_readable(kind)]", "if False]"
    ),
    OwnTest(
        TEXT + "test_spellings_that_stand_side_by_side_are_different", COLUMNS, "len(set(known)) == len(known)", "True"
    ),
    OwnTest(SAVABLE + "test_keys_that_are_no_names_are_refused", GIVEN, "    if several:", "    if False:"),
    OwnTest(
        SAVABLE + "test_what_a_file_cannot_hold_is_refused_when_the_model_is_made", GIVEN, "encode(plain, {})", "pass"
    ),
    OwnTest(COPIES + "test_cells_in_an_open_file_are_not_copied", COPY, "model._adata.filename is not None:", "False:"),
    OwnTest(
        COPIES + "test_a_copied_mapped_query_answers_but_is_not_trained_on",
        COPY,
        "or model.is_mapped_",
        "or False",
    ),
    OwnTest(COPIES + "test_a_copy_answers_like_the_original", COPY, "    model.id = str(uuid4())", "    pass"),
    OwnTest(
        "tests/registry/test_conditions.py::test_parts_that_stand_beside_the_control_are_pointed_at",
        "perturbation/combination.py",
        "    if not written:",
        "    if True:",
    ),
)
