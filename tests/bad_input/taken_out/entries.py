"""Checks of numbers, masks, devices and objects at an entry."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

READ, ASKED = "tests/test_entries.py::", "tests/model/test_entries.py::"
ENTRIES, DEVICES, VERBS, COMPARED = "_entries.py", "_devices.py", "model/verbs.py", "model/_compared.py"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(
        READ + "test_what_is_no_number",
        ENTRIES,
        "if isinstance(plain, bool | np.timedelta64) or not whole:",
        "if not whole:",
    ),
    OwnTest(
        READ + "test_bounds_are_named",
        ENTRIES,
        "return number(name, value, least=0, most=1)",
        "return number(name, value)",
    ),
    OwnTest(
        READ + "test_what_chooses_no_cells",
        ENTRIES,
        "outside = given[(given < 0) | (given >= n_cells)]",
        "outside = given[given >= n_cells]",
    ),
    OwnTest(
        READ + "test_what_chooses_no_cells",
        ENTRIES,
        "    if is_mixed:",
        "    if False:",
    ),
    OwnTest(
        READ + "test_what_chooses_no_cells",
        ENTRIES,
        "    if is_missing:",
        "    if False:",
    ),
    OwnTest(
        READ + "test_a_mask_with_names_follows_the_names",
        ENTRIES,
        "given if order is None else given[order]",
        "given",
    ),
    OwnTest(
        READ + "test_one_name_and_none",
        ENTRIES,
        "    if repeated:",
        "    if False:",
    ),
    OwnTest(
        READ + "test_an_object_that_is_no_anndata",
        ENTRIES,
        'if "MuData" in kinds:',
        "if False:",
    ),
    OwnTest(
        READ + "test_devices",
        DEVICES,
        "if device.type not in DEVICES or (isinstance(plain, str) and str(device) != plain):",
        "if device.type not in DEVICES:",
    ),
    OwnTest(
        ASKED + "test_a_mask_of_any_type_in_every_verb",
        VERBS,
        'given["indices"] = positions(given["indices"], cells.n_obs, cells=cells.obs_names)',
        "pass",
    ),
    OwnTest(
        ASKED + "test_genes_come_in_the_order_asked_for",
        VERBS,
        "return _ordered(verb(**given), order)",
        "return verb(**given)",
    ),
    OwnTest(
        ASKED + "test_genes_that_are_not_there",
        "registry/genes.py",
        "if (found < 0).any():",
        "if False:",
    ),
    OwnTest(
        ASKED + "test_batches_that_are_not_there",
        VERBS,
        "if batch is not None and as_text(batch) not in by_text:",
        "if False:",
    ),
    OwnTest(
        ASKED + "test_answers_do_not_change_from_call_to_call",
        VERBS,
        "if verb.__name__ not in INHERITED or _is_drawing.get():",
        "if True:",
    ),
    OwnTest(
        ASKED + "test_a_loader_brings_its_own_cells",
        VERBS,
        "    if beside:",
        "    if False:",
    ),
    OwnTest(
        ASKED + "test_groups_that_are_not_there",
        COMPARED,
        "if as_text(group) not in groups:",
        "if False:",
    ),
    OwnTest(
        ASKED + "test_groups_that_say_too_little_or_too_much",
        COMPARED,
        "if second is not None and (both := int((first & second).sum())):",
        "if False:",
    ),
    OwnTest(
        ASKED + "test_parameters_of_every_likelihood",
        "model/_parameters.py",
        "if likelihood not in WITH_GAMMA:",
        "if False:",
    ),
)
