"""Checks of what a question means, and of where the values are that it needs."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

LIE, OTHER = "tests/registry/test_where_counts_lie.py", "tests/model/test_another_answer.py"
SOURCE, DEPTH, OWN = "registry/source.py", "registry/depth.py", "model/own_response.py"
MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(
        f"{LIE}::test_counts_in_raw_are_offered_with_the_line_to_write",
        SOURCE,
        "if adata.raw is not None and holds(adata.raw.X, kind):",
        "if False:",
    ),
    OwnTest(
        f"{LIE}::test_layers_with_counts_are_offered_the_usual_one_first", SOURCE, "    if found:", "    if False:"
    ),
    OwnTest(
        f"{LIE}::test_masked_layers_are_refused",
        SOURCE,
        "adata._adata_ref if adata.is_view else adata",
        "adata",
    ),
    OwnTest(
        f"{LIE}::test_corrected_counts_get_three_ways_out",
        "registry/checks.py",
        "if not found and not report.n_negative and not report.look_scaled:",
        "if False:",
    ),
    OwnTest(
        f"{LIE}::test_counts_whose_logarithm_was_undone_are_read_as_whole",
        "registry/manager.py",
        'found = rounded(found, self._scan, where="The expression matrix")',
        "pass",
    ),
    OwnTest(
        f"{LIE}::test_small_numbers_and_other_fractions_are_no_counts",
        "registry/checks.py",
        "maximum < 0.5:",
        "maximum < -1:",
    ),
    OwnTest(
        f"{LIE}::test_the_byte_order_of_other_computers",
        "registry/matrix.py",
        'return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))',
        "return x",
    ),
    OwnTest(
        f"{LIE}::test_views_of_backed_files_say_what_to_load",
        "model/_registration.py",
        "        refuse_view_of_file(adata)",
        "        pass",
    ),
    OwnTest(
        f"{LIE}::test_a_genome_before_the_names_is_recognised",
        "registry/genes.py",
        "for suggestion in (_prefix_of_query, _prefix_of_model, _spaces):",
        "for suggestion in (_spaces,):",
    ),
    OwnTest(
        f"{OTHER}::test_every_model_warns_of_a_label_whose_response_it_saw_and_of_no_other",
        OWN,
        "    if not found:",
        "    if True:",
    ),
    OwnTest(
        f"{OTHER}::test_training_cells_are_known_by_name_and_other_cells_are_logged",
        OWN,
        "known = cells.index.astype(str).isin(sorted_names(training.obs_names))",
        "known = np.ones(len(cells), dtype=bool)",
    ),
    OwnTest(
        f"{OTHER}::test_totals_that_a_selection_stored_are_used",
        DEPTH,
        "if marked is not None and _is_intact(adata, str(marked), *sample):",
        "if False:",
    ),
    OwnTest(
        f"{OTHER}::test_columns_of_totals_over_more_genes_are_pointed_at",
        DEPTH,
        "    if found:",
        "    if False:",
    ),
    OwnTest(
        f"{OTHER}::test_raw_with_more_genes_is_pointed_at",
        DEPTH,
        "    elif more_genes:",
        "    elif False:",
    ),
    OwnTest(
        f"{OTHER}::test_rejection_promises_nothing_in_a_new_batch",
        "model/_new_batches.py",
        "    if len(new):",
        "    if False:",
    ),
    OwnTest(
        f"{OTHER}::test_a_mapped_query_keeps_the_calibration_of_other_batches",
        "model/_new_batches.py",
        "    if model.calibrated_batches_ is None:",
        "    if True:",
    ),
)
