"""Model of responses on a large screen: seconds and memory of its fit and of a prediction, on one core.

    python -m benchmarks speed-responses --write docs/benchmarks/responses_speed.md

Changes are simulated: a few programmes that contexts and perturbations share, with noise. The fit is in a process of
its own; its memory is the largest resident set of that process, libraries and table included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from benchmarks.harness.command import parsed, parser, settle
from benchmarks.harness.page import grid, made_by, publish
from benchmarks.speed.linear import peak
from deltavi.perturbation import ResponseModel, ResponseTable

PACKAGES = ("deltavi", "numpy", "scipy")
N_PROGRAMMES, N_CELLS = 5, 50


def screen(n_contexts: int, n_perturbations: int, n_genes: int) -> ResponseTable:
    """Every perturbation in every context, but a tenth of the pairs."""
    rng = np.random.default_rng(0)
    context = np.repeat(np.arange(n_contexts), n_perturbations)
    perturbation = np.tile(np.arange(n_perturbations), n_contexts)
    kept = rng.random(len(context)) < 0.9
    context, perturbation = context[kept], perturbation[kept]
    positions = rng.normal(size=(n_contexts, 2))
    scores = rng.normal(size=(n_perturbations, N_PROGRAMMES)) + 1
    gains = 1 + 0.4 * positions @ rng.normal(size=(2, N_PROGRAMMES))
    loadings = (0.1 * rng.normal(size=(N_PROGRAMMES, n_genes)) * rng.gamma(0.3, 1, n_genes)).astype(np.float32)
    changes = (scores[perturbation] * gains[context]).astype(np.float32) @ loadings
    variance = rng.gamma(1.0, 0.2, n_genes) + 0.01
    changes += rng.standard_normal(changes.shape, dtype=np.float32) * np.sqrt(variance / N_CELLS).astype(np.float32)
    parts = np.zeros((len(context), n_perturbations))
    parts[np.arange(len(context)), perturbation] = 1
    return ResponseTable(
        changes=changes,
        context_of=context,
        parts=parts,
        n_perturbed=np.full(len(context), N_CELLS),
        n_control=np.full(n_contexts, 10 * N_CELLS),
        control_means=np.abs(positions @ rng.normal(size=(2, n_genes))),
        variances=np.repeat(variance[None], n_contexts, axis=0),
        contexts=tuple(f"context {number}" for number in range(n_contexts)),
        perturbations=tuple(f"perturbation {number}" for number in range(n_perturbations)),
        genes=tuple(f"gene {number}" for number in range(n_genes)),
    )


def run(n_contexts: int, n_perturbations: int, n_genes: int) -> dict[str, float]:
    """Processor seconds of a fit and of a prediction of a context, and the peak memory of this process, GiB."""
    settle()
    table = screen(n_contexts, n_perturbations, n_genes)
    before, started = peak(), time.process_time()
    model = ResponseModel.fit(table)
    fitted = time.process_time()
    model.predict(table.perturbations, profile=table.control_means[0] + 0.1)
    times = {"fit": fitted - started, "predict": time.process_time() - fitted}
    return {"pairs": table.n_pairs, **times, "table": before, "peak": peak()}


def page(found: dict[str, float], options: argparse.Namespace) -> Iterator[str]:
    """The page."""
    yield (
        f"# Model of responses: time and memory\n\n{options.contexts} contexts, {options.perturbations} perturbations, "
        f"{options.genes:,} genes; {found['pairs']:,.0f} pairs, a tenth left out at random. The fit chooses a kernel, "
        "estimates all parameters, and leaves out what its skill and intervals are of; the prediction is of all "
        "perturbations in a new context. Processor seconds, one process, one thread; memory is the largest "
        "resident set of the whole process, libraries included, before the fit and after the prediction."
    )
    yield grid(
        ["fit, s", "prediction, s", "memory with the table, GiB", "peak memory, GiB"],
        [[f"{found[name]:.0f}" for name in ("fit", "predict")] + [f"{found[name]:.2f}" for name in ("table", "peak")]],
    )
    yield made_by(options.command, PACKAGES, "one thread")


def main(study: str, arguments: list[str]) -> None:
    """Fit in a fresh process and write the page."""
    made = parser(study, __doc__)
    made.add_argument("--contexts", type=int, default=20)
    made.add_argument("--perturbations", type=int, default=500)
    made.add_argument("--genes", type=int, default=18_000)
    options = parsed(made, arguments, {"contexts": 4, "perturbations": 6, "genes": 100})
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        found = fresh.submit(run, options.contexts, options.perturbations, options.genes).result()
    publish(page(found, options), options.write)
