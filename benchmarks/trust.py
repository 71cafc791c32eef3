"""What happens with bad input and faults, row by row, ours and scvi-tools' side by side.

    python benchmarks/trust.py --write docs/trust.md

Runs the tests of the folder ``tests/bad_input`` and notes which row passed on which model; then gives SCVI, or SCANVI
where labels are concerned, the same input and notes what is seen (``trust_peer.py``). Then takes checks out, damages
files at random and injects faults (``trust_faults.py``). With --rows only some rows are run, to see that everything
works; a page is written of all of them alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402 - the thread count must be set before NumPy is loaded
import pytest  # noqa: E402
import scvi  # noqa: E402
import torch  # noqa: E402
from trust_faults import damages_section, faults_section, mutations_section, words  # noqa: E402

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
    path = str(ROOT / "tests" / "bad_input" / "test_rows.py")
    # libraries that bring plugins of pytest were read before it
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-q", "-p", "no:cacheprovider"]
    pytest.main([*quiet, f"--rootdir={ROOT}", *chosen, path], plugins=[plugin])
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
    from trust_peer import observed
    from trust_peer_rows import PEERS

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


def introduction() -> str:
    """What the page is about."""
    return (
        "# What can be trusted\n\n"
        "Bad input and faults, each really handed over or injected, and what came of it. "
        "[What happens with bad input](bad-input.md) says it in words."
    )


def rows_section(found: dict[tuple[int, str], str], peers: dict[int, str]) -> str:
    """The rows by models, and how to read them."""
    n_passed = sum(mark == PASSED for mark in found.values())
    return "\n\n".join(
        [
            "## Bad input and faults",
            f"{n_passed} of {len(found)} tests passed; each gives one model the input of one row. {PASSED}: the model "
            f"does what must happen. {NOT_CONCERNED}: the row does not concern it, for a reason below. {SKIPPED}: an "
            "optional library was not there.",
            words(table(found, peers)),
        ]
    )


def peers_section(peers: dict[int, str]) -> str:
    """How the column of the peer came about."""
    kinds = {
        "works": "the answer is that for good input",
        "error": "with the class of the exception, and whether its message has a word for the cause",
        "warning": "that has a word for the cause",
        "silent": "an answer without a word; what is wrong with it, where that was seen",
        "nothing kept": "what was trained is lost",
    }
    seen = [answer.split(": ")[1].split(",")[0] for answer in peers.values()]
    counts = {kind: seen.count(kind) for kind in kinds}
    entries = pd.DataFrame(
        {"what it means": list(kinds.values()), "rows": [str(counts[kind]) for kind in kinds]}, index=list(kinds)
    ).rename_axis("entry")
    return "\n\n".join(
        [
            "## The column of scvi-tools",
            f"SCVI of scvi-tools {version('scvi-tools')} was given the same cells through `setup_anndata`, `train`, "
            "`get_latent_representation`, `save` and `load`; SCANVI, with `predict`, where labels are concerned. "
            "A silent answer is no fault where it is right, as for a gene without counts; it is one where it may be "
            "wrong. Not tried: no input of that row was put together for these models. "
            "Queries went in as they are; `prepare_query_anndata` of scvi-tools would match genes by name.",
            words(entries),
        ]
    )


def reasons_section() -> str:
    """Why rows do not concern models."""
    return f"## What does not concern a model\n\n{words(reasons())}"


def colophon() -> str:
    """Command and versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Made by `python benchmarks/trust.py --write docs/trust.md` with {packages} on Python "
        f"{platform.python_version()}, {platform.machine()}, one thread."
    )


def sections(found: dict[tuple[int, str], str], peers: dict[int, str], others: list[str]) -> Iterator[str]:
    """Sections of the page; `others` are about what is no row."""
    yield introduction()
    yield rows_section(found, peers)
    yield peers_section(peers)
    yield reasons_section()
    yield from others
    yield colophon()


def main() -> None:
    """Run the rows and the peer, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="comma-separated numbers (default: all)")
    parser.add_argument("--tried", type=int, default=5000, help="damages of each kind of file (default: %(default)s)")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = [int(number) for number in options.rows.split(",") if number]
    for name in ("lightning", "lightning.pytorch", "deltavi", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    peers = peer_answers(rows)
    found = outcomes(rows)
    if not found:
        raise SystemExit("no test was run")
    others = [] if rows else [mutations_section(), damages_section(options.tried), faults_section()]
    text = "\n\n".join(sections(found, peers, others)) + "\n"
    if options.write and not rows:
        options.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
