"""Checks of tables that carry names."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

EVALUATION, METRICS = "tests/tl/test_evaluation_tables.py", "tests/metrics/test_named_tables.py"
REFUSED = f"{EVALUATION}::test_what_cannot_be_matched_is_refused"
MISMATCH = f"{METRICS}::test_what_does_not_match_is_refused"
OF_CELLS = f"{METRICS}::test_values_of_other_cells_are_refused[clustering_scores]"
RETURNED, TABLES, CHOSEN = "tl/_returned.py", "arrays/tables.py", "arrays/chosen.py"

MUTATIONS: tuple[OwnTest, ...] = (
    OwnTest(
        f"{EVALUATION}::test_the_order_of_named_cells_and_genes_does_not_matter[frame]",
        RETURNED,
        "slice(None) if same else",
        "slice(None) if True else",
    ),
    OwnTest(
        f"{EVALUATION}::test_the_order_of_named_cells_and_genes_does_not_matter[AnnData]",
        RETURNED,
        "given is None or given.equals(wanted)",
        "True",
    ),
    OwnTest(f"{REFUSED}[cell of others]", RETURNED, "if len(strange) or not", "if not"),
    OwnTest(f"{REFUSED}[counts]", RETURNED, "require_logs(matrix,", "(lambda *_, **__: None)(matrix,"),
    OwnTest(f"{REFUSED}[gene twice]", TABLES, "    if len(repeated):", "    if False:"),
    OwnTest(f"{MISMATCH}[gene missing]", TABLES, "if len(missing) or", "if"),
    OwnTest(f"{MISMATCH}[gene more]", TABLES, "(len(extra) and not further):", "False:"),
    OwnTest(f"{MISMATCH}[positions in two orders]", TABLES, "if not self.one_order:", "if False:"),
    OwnTest(f"{MISMATCH}[unknown gene]", CHOSEN, "    if unknown:", "    if False:"),
    OwnTest(f"{MISMATCH}[counts beside logs]", "arrays/scale.py", "if raw and len(raw) < len(matrices):", "if False:"),
    OwnTest(f"{MISMATCH}[masked]", "arrays/matrix.py", "if isinstance(x, np.ma.MaskedArray)", "if False"),
    OwnTest(OF_CELLS, "arrays/per_cell.py", "    if difference:", "    if False:"),
)
