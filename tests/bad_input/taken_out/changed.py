"""Checks of data that changed since they were set up."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

TESTS = "tests/model/test_changed_data.py::"
EVERY_METHOD = f"{TESTS}test_every_method_says_what_changed[VAE]"
CHANGES, FINGERPRINT, MANAGER = "data/_changes.py", "data/_fingerprint.py", "data/_manager.py"
LEFT, BASE, ATTACHED = "data/_leftovers.py", "model/_base.py", "model/_attached.py"
JOINED = "tests/data/test_leftovers.py::"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(EVERY_METHOD, MANAGER, "            self.require_same_cells()\n", "            pass\n"),
    OwnTest(EVERY_METHOD, MANAGER, "require_same_genes(self.adata.var_names, self._genes)", "pass"),
    OwnTest(EVERY_METHOD, MANAGER, "            self._require_same_matrix()", "            pass"),
    OwnTest(EVERY_METHOD, MANAGER, "            columns.require_unedited(adata)", "            pass"),
    OwnTest(EVERY_METHOD, MANAGER, "                columns.require_written(adata)", "                pass"),
    OwnTest(EVERY_METHOD, "model/_files.py", "            self.adata_manager.validate()", "            pass"),
    OwnTest(EVERY_METHOD, "model/_scvi_exchange.py", "            self.adata_manager.validate()", "            pass"),
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
        "        self._adata_manager.require_same_cells()",
        "        pass",
    ),
    OwnTest(
        f"{TESTS}test_the_split_points_at_the_cells_it_was_made_of[PPCA]",
        ATTACHED,
        "        if trained_on is not None and names_checksum(self._adata.obs_names) != trained_on:",
        "        if False:",
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
)
