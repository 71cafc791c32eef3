"""Genetic perturbations: the response of a cell line left out, and pairs predicted from single perturbations.

    python benchmarks/perturbation_pairs.py --data norman_mcfaline_perturbench.h5ad --runs runs/norman \
        --write docs/benchmarks/perturbation_pairs.md

Part "lines": for every perturbation that all lines saw, one line in turn is left without it. Part "pairs": all cells of
a pair are left out, both of whose single perturbations were measured; the pair is then asked for as the sum of the two.
Finished parts are kept in the folder of --runs. One thread per process.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import anndata  # noqa: E402 - the thread count must be set before NumPy is loaded
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import torch  # noqa: E402
from anndata import AnnData  # noqa: E402
from annotation_page import markdown  # noqa: E402
from perturbation_page import PACKAGES, over_seeds  # noqa: E402
from runs import chosen  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402

from deltavi.model import PPCA, SCGEN  # noqa: E402
from deltavi.perturbation import CEILING  # noqa: E402
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation  # noqa: E402

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
METHODS = {
    "SCGEN": Method(SCGEN, train_kwargs=QUIET, predict={"": {}, "model alone": {"consensus": 0.0}}),
    "PPCA": Method(PPCA),
}
CONTROL, SEPARATOR = "control", "+"
# That of the PCA shifts.
N_COMPONENTS = 50
COLUMNS = {
    "correlation_of_changes": "correlation of changes",
    "correlation_of_changes_top20": "top 20",
    "r2_of_means_top": "R2 of means, top 100",
    "e_distance": "E-distance",
    "variance_ratio": "variance ratio",
}
ADDITIVE = (
    "For a pair the shifts of its two single perturbations are added, by baselines and models alike: the mean shift is "
    "then the sum of the mean changes, and as the line has seen both, the nearest shift is the sum of its own."
)


def pairs(adata: AnnData) -> dict[str, pd.Series]:
    """Pairs of which both single perturbations were measured, and their cells."""
    conditions = adata.obs["condition"].astype(str)
    known = set(conditions)
    joined = [name for name in sorted(known) if SEPARATOR in name and set(name.split(SEPARATOR)) <= known]
    return {name: (conditions == name).to_numpy() for name in joined}


def everywhere(adata: AnnData) -> list[str]:
    """Perturbations that all cell lines saw."""
    seen = pd.crosstab(adata.obs["condition"], adata.obs["cell_type"])
    return [str(name) for name in seen.index[(seen > 0).all(axis=1)] if name != CONTROL]


def averages(evaluation: PerturbationEvaluation) -> pd.DataFrame:
    """Mean scores of every method over all that was held out."""
    table = evaluation.table
    names = [name for name in table["method"].unique() if name != CEILING] + [CEILING]
    columns = {
        shown: over_seeds(table, metric, 2 if metric == "e_distance" else 3) for metric, shown in COLUMNS.items()
    }
    return pd.DataFrame(columns).loc[names].rename_axis("method")


def by_case(evaluation: PerturbationEvaluation, column: str) -> pd.DataFrame:
    """Correlation of changes by what was held out, of models, the best baseline and the ceiling."""
    table = evaluation.table
    score = table.groupby([column, "method"], sort=False)["correlation_of_changes"].mean().unstack("method")
    kinds = table.drop_duplicates("method").set_index("method")["kind"]
    best = score[[name for name in score if kinds[name] == "baseline"]].max(axis=1)
    shown = score[[name for name in score if kinds[name] == "model"]].assign(**{"best baseline": best})
    return shown.assign(**{CEILING: score[CEILING]}).map(lambda value: f"{value:.3f}").rename_axis(column)


def smoothing_alone(adata: AnnData) -> tuple[float, float]:
    """Correlation of changes of control cells that were projected onto principal components, without any response.

    First with changes measured from these cells, as always; then projected from one half of the control cells and
    measured from the other half. Means over perturbations that all lines saw, and lines.
    """
    rows = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)
    logs = np.log1p(1e4 * rows / np.maximum(rows.sum(1, keepdims=True), 1.0))
    conditions, lines = (adata.obs[key].astype(str).to_numpy() for key in ("condition", "cell_type"))
    rng, found = np.random.default_rng(0), []
    for line in sorted(set(lines)):
        control = rng.permutation(np.flatnonzero((lines == line) & (conditions == CONTROL)))
        halves = np.array_split(control, 2)
        for target in everywhere(adata):
            held_out = (lines == line) & (conditions == target)
            axes = PCA(N_COMPONENTS, random_state=0).fit(logs[~held_out])
            real = logs[held_out].mean(0)
            found.append(
                [
                    correlation(axes, logs[projected], logs[measured].mean(0), real)
                    for projected, measured in ((control, control), halves)
                ]
            )
    same, apart = np.mean(found, axis=0)
    return float(same), float(apart)


def correlation(axes: PCA, cells: np.ndarray, control: np.ndarray, real: np.ndarray) -> float:
    """Of the change that projection makes of the mean of `cells` with the change of `real` from `control`."""
    change = axes.inverse_transform(axes.transform(cells)).mean(0) - cells.mean(0)
    return float(np.corrcoef(change, real - control)[0, 1])


def sections(
    found: dict[str, PerturbationEvaluation], smoothed: tuple[float, float], options: argparse.Namespace
) -> Iterator[str]:
    """Sections of the page."""
    yield "# Perturbations of genes"
    yield (
        "Counts of 500 genes in four cell lines, from Norman et al. (2019) and McFaline-Figueroa et al. (2023). With "
        "about a hundred cells for each perturbation and line, two halves of the real cells agree badly: the responses "
        "are small beside the noise, and a prediction from many cells may agree better with them than one half does."
    )
    titles = {"lines": "## A cell line left out", "pairs": "## Pairs from single perturbations"}
    for part, evaluation in found.items():
        yield f"{titles[part]}\n\n{markdown(averages(evaluation))}\n\n{evaluation.verdict('SCGEN')}"
        if part == "lines":
            same, apart = smoothed
            yield (
                f"How much of it is no response: control cells that are only projected onto {N_COMPONENTS} principal "
                f"components score a correlation of changes of {same:.3f}. Where one half of the control cells is "
                f"projected, and the change measured from the other half, they score {apart:.3f}. The noise of the "
                "control mean, of a hundred cells, is part of every measured change, and what takes it off is "
                "rewarded: this is what the PCA shifts are ahead by, and in part the two halves too. The E-distance "
                "and no change say what there is to be had."
            )
        yield f"Correlation of changes:\n\n{markdown(by_case(evaluation, 'target'))}"
    yield ADDITIVE
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    yield (
        f"Made by `python benchmarks/perturbation_pairs.py {shlex.join(options.given)}` with {packages} on Python "
        f"{platform.python_version()}, {platform.machine()}, one thread per process."
    )


def main() -> None:
    """Evaluate what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="h5ad with obs condition and cell_type")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps finished parts")
    parser.add_argument("--parts", default="pairs,lines", help="comma-separated (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each hold-out (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    options.given = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    adata = anndata.read_h5ad(options.data)
    shared = {
        "control": CONTROL,
        "n_genes": adata.n_vars,
        "seeds": range(options.seeds),
        "n_jobs": options.jobs,
    }
    asked = {
        "pairs": {"target": list(pairs(adata)), "hold_out": pairs(adata)},
        "lines": {"target": everywhere(adata)},
    }
    found = {
        part: evaluate_perturbation(adata, METHODS, folder=options.runs / part, **asked[part], **shared)
        for part in chosen(options.parts, asked)
    }
    text = "\n\n".join(sections(found, smoothing_alone(adata), options)) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
