"""What happens with bad input and faults, row by row, ours and scvi-tools' side by side.

    python -m benchmarks trust --write docs/trust.md

Runs the tests of the folder ``tests/bad_input`` and notes which row passed on which model; then gives SCVI, or SCANVI
where labels are concerned, the same input and notes what is seen (``peer.py``, ``peer_rows.py``). Then takes checks
out, damages files at random and injects faults (``faults.py``). With --rows only some rows are run, to see that
everything works; a page is written of all of them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pandas as pd
import scvi
import torch

from benchmarks.harness.command import parsed, parser, settle
from benchmarks.harness.page import made_by, publish, words
from benchmarks.trust.faults import ROOT, damages_section, faults_section, mutations_section, run_tests

PASSED, FAILED, SKIPPED, NOT_CONCERNED, NOT_TRIED = "✓", "**failed**", "not run", "–", "not tried"
# Rows about what SCVI and SCANVI do not have: division by deviations of genes, components, predicted responses.
NOT_APPLICABLE = dict.fromkeys((13, 74, 75, 82, 94), "not applicable")
PACKAGES = ("deltavi", "scvi-tools", "anndata", "pandas", "torch")


class Outcomes:
    """Plugin of pytest that notes the outcome of each row on each model."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, str], str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note the worst of setup, call and teardown."""
        _, _, test = report.nodeid.partition("test_row[row")
        if not test:
            return
        number, _, model = test.rstrip("]").partition("-")
        marks = {"passed": PASSED, "failed": FAILED, "skipped": SKIPPED}
        mark, key = marks[report.outcome], (int(number), model)
        if mark != PASSED or key not in self.found:
            self.found[key] = mark


def outcomes(rows: list[int]) -> dict[tuple[int, str], str]:
    """Outcome by row and model, from the tests themselves."""
    plugin = Outcomes()
    names = {f"row{number}-" for number in rows}
    chosen = [] if not rows else ["-k", " or ".join(sorted(names))]
    run_tests(plugin, *chosen, str(ROOT / "tests" / "bad_input" / "test_rows.py"))
    return plugin.found


def table(found: dict[tuple[int, str], str], peers: dict[int, str]) -> pd.DataFrame:
    """Rows by models and the peer; entries are text."""
    from tests.bad_input.bench import CASES
    from tests.bad_input.registry import all_rows

    lines = {
        f"{row.number}. {row.given}": {
            "must": row.must,
            **{name: found.get((row.number, name), SKIPPED) if name in row.models else NOT_CONCERNED for name in CASES},
            "SCVI, SCANVI": (NOT_APPLICABLE | peers).get(row.number, NOT_TRIED),
        }
        for row in all_rows()
        if any(number == row.number for number, _ in found)
    }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("bad input or fault")


def peer_answers(rows: list[int]) -> dict[int, str]:
    """What SCVI or SCANVI does with the input of each row."""
    from benchmarks.trust.peer import observed
    from benchmarks.trust.peer_rows import PEERS

    answers = {}
    for number, peer in PEERS.items():
        if rows and number not in rows:
            continue
        torch.set_num_threads(1)
        answers[number] = f"{peer.model}: {observed(peer)}"
        print(f"row {number}, {answers[number]}", flush=True)
    # it decides the seeds of our models, too
    scvi.settings.seed = None
    return answers


def reasons() -> pd.DataFrame:
    """Why a row does not concern a model, in the words of the registry."""
    from tests.bad_input.registry import all_rows

    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in all_rows():
        for name, reason in row.without.items():
            by_reason.setdefault((name, reason), []).append(str(row.number))
    lines = {(name, reason): ", ".join(numbers) for (name, reason), numbers in by_reason.items()}
    found = pd.DataFrame(
        {"rows": list(lines.values()), "reason": [reason for _, reason in lines]}, index=[name for name, _ in lines]
    )
    return found.rename_axis("model")


# -- sections of the page --------------------------------------------------------------------------------------


def rows_section(found: dict[tuple[int, str], str], peers: dict[int, str]) -> str:
    """The rows by models, and how to read them."""
    n_passed = sum(mark == PASSED for mark in found.values())
    return "\n\n".join(
        [
            "## Bad input and faults",
            f"{n_passed} of {len(found)} tests passed; each gives one model the input of one row. {PASSED}: the model "
            f"behaves as required. {NOT_CONCERNED}: the row does not apply to it, for a reason below. {SKIPPED}: an "
            "optional library was missing.",
            words(table(found, peers)),
        ]
    )


def peers_section(peers: dict[int, str]) -> str:
    """How the column of the peer came about."""
    kinds = {
        "works": "the result is that for good input",
        "error": "with the class of the exception, and whether its message names the cause",
        "warning": "that names the cause",
        "silent": "a result without a message; its fault, where one was found",
        "nothing kept": "the trained model is lost",
    }
    seen = [answer.split(": ")[1].split(",")[0] for answer in peers.values()]
    counts = {kind: seen.count(kind) for kind in kinds}
    entries = pd.DataFrame(
        {"meaning": list(kinds.values()), "rows": [str(counts[kind]) for kind in kinds]}, index=list(kinds)
    ).rename_axis("entry")
    return "\n\n".join(
        [
            "## The column of scvi-tools",
            f"SCVI of scvi-tools {version('scvi-tools')} was given the same cells through `setup_anndata`, `train`, "
            "`get_latent_representation`, `save` and `load`; SCANVI, with `predict`, where labels are concerned. "
            "A silent result is no fault where it is right, as for a gene without counts; it is one where it may be "
            "wrong. Not tried: no input of that row was prepared for these models. "
            "Queries were passed unchanged; `prepare_query_anndata` of scvi-tools would match genes by name.",
            words(entries),
        ]
    )


def page(found: dict[tuple[int, str], str], peers: dict[int, str], others: list[str], command: str) -> Iterator[str]:
    """Sections of the page; `others` are about what is no row."""
    yield (
        "# What can be trusted\n\n"
        "Tests with bad input and injected faults, and their results. "
        "[What happens with bad input](bad-input.md) describes the behaviour."
    )
    yield rows_section(found, peers)
    yield peers_section(peers)
    yield f"## Rows that do not apply to a model\n\n{words(reasons())}"
    yield from others
    yield made_by(command, PACKAGES)


def main(study: str, arguments: list[str]) -> None:
    """Run the rows and the peer, and write the page."""
    made = parser(study, __doc__)
    made.add_argument("--rows", type=numbers, default=[], help="comma-separated numbers (default: all)")
    made.add_argument("--tried", type=int, default=5000, help="damages of each kind of file (default: %(default)s)")
    options = parsed(made, arguments, {"rows": [1, 26]})
    settle()
    peers = peer_answers(options.rows)
    found = outcomes(options.rows)
    if not found:
        raise SystemExit("no test was run")
    others = [] if options.rows else [mutations_section(), damages_section(options.tried), faults_section()]
    publish(page(found, peers, others, options.command), None if options.rows else options.write)


def numbers(text: str) -> list[int]:
    """The numbers of an argument."""
    return [int(number) for number in text.split(",")]
