"""Damage model files at random: each must be refused at once, or answer as if nothing had happened.

``python tests/io/fuzz_model_files.py --n 100000 --seed 1`` prints a table of what became of them; its exit status is
one where a file loaded with another answer, raised anything but an error of this package, or took too long. A failure
is named by model, kind and seed, and ``--model SCGEN --kind truncate --only 17`` repeats it.

A damage with checksums that fit may amount to another valid model: another seed, another name of a label. Such kinds
may load with another answer, and are counted apart. All others may not.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deltavi.errors import DeltaviError
from tests.golden.models import HERE, answers, asked, model_class
from tests.io.damages import KINDS, damaged

# Of the processor: that of a machine with other work to do counts for nothing.
SECONDS = 2.0
MEGABYTES = 500
OUTCOMES = ("refused", "equal", "another model", "different", "error", "slow")
FAILURES = ("different", "error", "slow")


@dataclass
class Report:
    """What became of the damages of each kind, and the failures."""

    outcomes: ClassVar[tuple[str, ...]] = OUTCOMES
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, kind: str, outcome: str, seconds: float, told: str) -> None:
        self.counts[kind, outcome] += 1
        self.slowest = max(self.slowest, seconds)
        if outcome in FAILURES:
            self.failures.append(told)

    def table(self) -> str:
        """Markdown table of kinds and outcomes."""
        kinds = sorted({kind for kind, _ in self.counts})
        rows = [[kind, *(self.counts[kind, outcome] for outcome in self.outcomes)] for kind in kinds]
        total = ["all", *(sum(self.counts[kind, outcome] for kind in kinds) for outcome in self.outcomes)]
        head = ["damage", "tried", *self.outcomes]
        lines = [[row[0], sum(row[1:]), *row[1:]] for row in [*rows, total]]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [head, ["---"] * len(head), *lines])


def outcome_of(source: Path, folder: Path, expected: dict[str, np.ndarray], cells: Any) -> tuple[str, float, str]:
    """What loading `folder`, a damaged `source`, leads to; seconds that took; and the error."""
    started = time.process_time()
    try:
        model = model_class(source).load(folder)
    except DeltaviError as error:
        result, told = "refused", f"{error}"
    except Exception as error:
        result, told = "error", f"{type(error).__name__}: {error}"
    else:
        result, told = "loaded", ""
    seconds = time.process_time() - started
    if seconds > SECONDS:
        return "slow", seconds, told
    return (compared(model, expected, cells), seconds, "") if result == "loaded" else (result, seconds, told)


def compared(model: Any, expected: dict[str, np.ndarray], cells: Any) -> str:
    """Whether a model that loaded answers as the undamaged one does; a senseless one may fail to."""
    try:
        found = answers(model, cells)
    except Exception:
        return "different"
    same = all(np.array_equal(found[verb], expected[verb], equal_nan=True) for verb in expected)
    return "equal" if same else "different"


def fuzz(source: Path, scratch: Path, tasks: Iterable[tuple[str, int]], report: Report) -> None:
    """Try damages, given as kind and seed, on one model folder."""
    cells = asked()
    expected = answers(model_class(source).load(source), cells)
    for kind, seed in tasks:
        folder = damaged(source, scratch / "model", kind, seed)
        # a senseless description may be warned of before it is refused
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, seconds, told = outcome_of(source, folder, expected, cells)
        if outcome == "different" and KINDS[kind].may_differ:
            outcome = "another model"
        report.add(kind, outcome, seconds, f"--model {source.name} --kind {kind} --only {seed}: {outcome}, {told}")


def tasks(n: int, seed: int, kinds: Iterable[str] = KINDS) -> list[tuple[str, int]]:
    """`n` damages with seeds of their own, every kind in turn."""
    names = list(kinds)
    return [(names[i % len(names)], seed * 1_000_000_007 + i) for i in range(n)]


def memory_peak() -> Callable[[], float]:
    """Function that tells by how many megabytes the peak of this process has risen; zero where none is counted."""
    try:
        import resource
    except ImportError:  # Windows
        return lambda: 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

    before = peak()
    return lambda: peak() - before


def main() -> int:
    """Run the damages that the command line asks for."""
    folders = {path.name: path for path in sorted(HERE.glob("v*/*")) if path.is_dir()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="damages, shared among models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=folders, action="append", help="by default all")
    parser.add_argument("--kind", choices=KINDS, action="append", help="by default all")
    parser.add_argument("--only", type=int, help="seed of the one damage to repeat, of one kind and model")
    given = parser.parse_args()
    logging.getLogger("deltavi").setLevel(logging.ERROR)
    report, chosen, kinds = Report(), given.model or list(folders), given.kind or list(KINDS)
    risen = memory_peak()
    with tempfile.TemporaryDirectory() as scratch:
        for i, name in enumerate(chosen):
            todo = tasks(given.n // len(chosen), given.seed * len(folders) + i, kinds)
            if given.only is not None:
                todo = [(kinds[0], given.only)]
            fuzz(folders[name], Path(scratch), todo, report)
    print(report.table())
    print(f"\nslowest {report.slowest:.2f} s; memory rose by {risen():.0f} MB")
    print("\n".join(report.failures[:20]))
    return int(bool(report.failures) or risen() > MEGABYTES)


if __name__ == "__main__":
    raise SystemExit(main())
