"""Checks of data that changed since they were set up."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

TESTS = "tests/model/test_changed_data.py::"
EVERY_METHOD = f"{TESTS}test_every_method_says_what_changed[VAE]"
CHANGES, FINGERPRINT, MANAGER = "registry/_changes.py", "registry/_fingerprint.py", "registry/manager.py"
LEFT, BASE, ATTACHED = "registry/leftovers.py", "model/_base.py", "model/_attached.py"
JOINED = "tests/registry/test_leftovers.py::"
SEEN, LOOKS = "tests/registry/test_fingerprint.py::", f"{TESTS}test_the_error_says_what_the_matrix_looks_like_now"
WRITTEN = f"{SEEN}test_a_file_that_was_written_to_is_read_at_more_places"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(EVERY_METHOD, MANAGER, "            self.require_same_cells()\n", "            pass\n"),
    OwnTest(EVERY_METHOD, MANAGER, "require_same_genes(self.adata.var_names, self._genes)", "pass"),
    OwnTest(EVERY_METHOD, MANAGER, "            self._require_same_matrix()", "            pass"),
    OwnTest(EVERY_METHOD, MANAGER, "            columns.require_unedited(adata)", "            pass"),
    OwnTest(EVERY_METHOD, MANAGER, "                columns.require_written(adata)", "                pass"),
    OwnTest(EVERY_METHOD, "model/_files.py", "        self.adata_manager.validate()", "        pass"),
    OwnTest(EVERY_METHOD, "model/_scvi_exchange.py", "        self.adata_manager.validate()", "        pass"),
    OwnTest(EVERY_METHOD, CHANGES, "    if now.n_negative and not before.n_negative:", "    if False:"),
    OwnTest(EVERY_METHOD, CHANGES, "    if registered.is_reordered(x):", "    if False:"),
    OwnTest(
        f"{TESTS}test_between_setup_and_the_model_and_before_training[ACTINN]",
        BASE,
        "            # between setup and here\n            self.adata_manager.validate()",
        "            pass",
    ),
    OwnTest(
        f"{TESTS}test_what_is_no_change[VAE]",
        FINGERPRINT,
        "            if self.differs(x).any():",
        "            if True:",
    ),
    OwnTest(
        f"{TESTS}test_files[CSR]",
        FINGERPRINT,
        "if stored(x, RUNS_IF_WRITTEN) != self._more_storage:",
        "if False:",
    ),
    OwnTest(f"{TESTS}test_files[dense]", CHANGES, "KeyError, OSError, RuntimeError", "KeyError, RuntimeError"),
    OwnTest(f"{TESTS}test_a_layer", CHANGES, "not registered.differs(x).any()", "False"),
    OwnTest(
        f"{TESTS}test_the_split_points_at_the_cells_it_was_made_of[PPCA]",
        ATTACHED,
        "    model._adata_manager.require_same_cells()",
        "    pass",
    ),
    OwnTest(
        f"{TESTS}test_the_split_points_at_the_cells_it_was_made_of[PPCA]",
        ATTACHED,
        "    if trained_on is not None and names_checksum(model._adata.obs_names) != trained_on:",
        "    if False:",
    ),
    OwnTest(
        f"{JOINED}test_columns_of_the_user_are_no_leftovers", LEFT, "(codes < max(len(values), 1))", "(codes < 1e9)"
    ),
    OwnTest(
        f"{JOINED}test_what_other_registrations_left_is_dropped",
        LEFT,
        "            del getattr(adata, table)[key]",
        "            pass",
    ),
    OwnTest(f"{SEEN}test_places_count", FINGERPRINT, "int(of_blocks @ odd)", "int(of_blocks.sum())"),
    OwnTest(f"{SEEN}test_any_bit_counts", FINGERPRINT, "int(rest @ _WEIGHTS[: len(rest)])", "0"),
    OwnTest(
        f"{SEEN}test_bytes_beyond_the_last_word_count",
        FINGERPRINT,
        'int.from_bytes(flat[len(words) * 8 :].tobytes(), "little")',
        "0",
    ),
    OwnTest(
        f"{SEEN}test_what_is_no_number_is_no_value_of_before",
        FINGERPRINT,
        "~(np.abs(cell_sums(x, self.rows)[0] - self.sums) <= ROUNDING * self.sizes)",
        "np.abs(cell_sums(x, self.rows)[0] - self.sums) > ROUNDING * self.sizes",
    ),
    OwnTest(
        f"{SEEN}test_sums_of_cells_do_not_depend_on_storage",
        FINGERPRINT,
        "(sums[0][rows], sums[1][rows])",
        "(sums[0], sums[1])",
    ),
    OwnTest(WRITTEN, FINGERPRINT, "        if written == self._written:", "        if True:"),
    OwnTest(
        f"{SEEN}test_what_is_read_into_memory_is_compared_in_full_from_then_on",
        FINGERPRINT,
        "            if self.rows is not None and not is_lazy(x):",
        "            if False:",
    ),
    OwnTest(
        f"{SEEN}test_rows_of_other_cells",
        FINGERPRINT,
        "bool((apart <= ROUNDING * self.sizes.max(initial=0.0)).all())",
        "True",
    ),
    OwnTest(LOOKS, CHANGES, "    if now.n_nan + now.n_infinite:", "    if False:"),
    OwnTest(LOOKS, CHANGES, "if before.are_counts and now.look_scaled:", "if False:"),
    OwnTest(LOOKS, CHANGES, "if before.are_counts and now.look_log_normalised:", "if False:"),
    OwnTest(LOOKS, CHANGES, "if before.are_counts and not now.are_counts:", "if False:"),
    OwnTest(LOOKS, CHANGES, "if now.look_like_counts and not before.look_like_counts:", "if False:"),
    OwnTest(
        f"{TESTS}test_size_factors_and_covariates",
        CHANGES,
        "isinstance(field, CategoricalCovariatesField | ContinuousCovariatesField):",
        "isinstance(field, CategoricalCovariatesField):",
    ),
    OwnTest(
        f"{TESTS}test_size_factors_and_covariates",
        CHANGES,
        "[field.attr_key] if isinstance(field, SizeFactorField) else []",
        "[]",
    ),
    # columns of an answer
    OwnTest(
        f"{JOINED}test_columns_of_the_user_under_the_names_of_an_answer",
        LEFT,
        "& ~predicted).any()]",
        "& False).any()]",
    ),
    OwnTest(
        f"{JOINED}test_an_earlier_answer_beside_the_cells_to_predict", LEFT, "& ~predicted).any()]", "& True).any()]"
    ),
)
