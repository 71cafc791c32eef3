"""A few treated cells beside the control cells: what they add to a prediction, and what it adds to them.

    python -m benchmarks few-treated --seeds 3 --write docs/benchmarks/few_treated.md

Each cell type's stimulated cells are held out in turn, but for 5, 10 or 20 of them, which the prediction is given and
which it is not compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks.harness import runs
from benchmarks.harness.command import QUIET
from benchmarks.harness.data import KANG, kang_cells
from benchmarks.harness.page import made_by, markdown, spread
from benchmarks.harness.runs import Rows, Run, Study
from deltavi.metrics import e_distance, pearson_delta, principal_axes
from deltavi.model import SCGEN
from deltavi.pp import highly_variable_genes

PACKAGES = ("deltavi", "scvi-tools", "torch")
TYPES = ("B", "CD14+Mono", "CD4T", "CD8T", "Dendritic", "FCGR3A+Mono", "NK")
CONTROL, STIMULATED = "control", "stimulated"
NONE, NO_CHANGE = "SCGEN", "no change"
WITH, ALONE = "SCGEN and {} treated cells", "{} treated cells alone"
NUMBERS = (5, 10, 20)
METHODS = [NONE, *(WITH.format(n) for n in NUMBERS), *(ALONE.format(n) for n in NUMBERS), NO_CHANGE]


@lru_cache(maxsize=1)
def cells_of(data: Path) -> AnnData:
    """The experiment on 2,000 genes, which are chosen with all of its cells; counts and log1p CP10k."""
    return highly_variable_genes(kang_cells(data / KANG), n_top=2000, condition_key="condition")


@lru_cache(maxsize=1)
def trained(data: Path, label: str, seed: int) -> tuple[SCGEN, AnnData, AnnData, np.ndarray]:
    """A model that saw no stimulated cell of `label`, its control cells, its stimulated cells, and axes of all."""
    cells = cells_of(data)
    of_label = (cells.obs["cell_type"] == label).to_numpy()
    stimulated = (cells.obs["condition"] == STIMULATED).to_numpy()
    learned = cells[~(of_label & stimulated)].copy()
    SCGEN.setup_anndata(learned, layer="counts", condition_key="condition", labels_key="cell_type")
    model = SCGEN(learned, seed=seed)
    model.train(**QUIET)
    control, real = cells[of_label & ~stimulated].copy(), cells[of_label & stimulated].copy()
    return model, control, real, np.asarray(principal_axes(cells.X))


def work(run: Run, data: Path) -> Rows:
    """The row of one run."""
    model, control, real, axes = trained(data, run.task, run.seed)
    order = np.random.default_rng(run.seed).permutation(real.n_obs)
    digits = "".join(filter(str.isdigit, run.method))
    n = int(digits) if digits else 0
    treated, rest = real[order[:n]].copy(), real[order[max(NUMBERS) :]]
    if run.method == NO_CHANGE:
        predicted: Any = control.X
    elif run.method.endswith("alone"):
        predicted = treated.X
    else:
        asked: dict[str, Any] = {"control": CONTROL, "perturbation": STIMULATED}
        predicted = model.predict_perturbation(control, **asked, treated=treated if n else None).X
    return [
        {
            "e_distance": e_distance(predicted, rest.X, components=axes),
            "pearson_delta": pearson_delta(predicted, rest.X, control=control.X),
        }
    ]


def page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page; `records` has one row per type, method and seed."""
    methods, types = list(records["method"].unique()), list(records["task"].unique())
    yield (
        "# A few treated cells\n\nControl cells do not tell how strongly their type responds. Each type of the "
        "interferon experiment is left out in turn, but for a few of its stimulated cells, which are given to "
        "`predict_perturbation(..., treated=...)`; nothing is trained anew. All are compared with the same cells, "
        f"those beyond the first {max(NUMBERS)} in a random order. Genes chosen with all cells, a small leak that is "
        "the same for every row."
    )
    for column, title, digits in (("e_distance", "E-distance", 1), ("pearson_delta", "Pearson delta", 3)):
        by_type = records.groupby(["method", "task"], sort=False)[column].mean().unstack().loc[methods, types]
        of_seed = records.groupby(["method", "seed"], sort=False)[column].mean()
        means = of_seed.groupby("method").apply(spread, digits=digits).loc[methods]
        table = by_type.map(f"{{:.{digits}f}}".format)
        table.insert(0, "mean", means)
        yield f"## {title}\n\n{markdown(table.rename_axis('method'))}"
    yield (
        "The treated cells alone are unbiased, and have the noise of their number. They are worth more beside a "
        "prediction: five of them and the model are about as near as twenty alone. "
        f"Mean ± standard deviation over seeds (n = {records['seed'].nunique()}), of the training and of the treated "
        f"cells. {made_by(command, PACKAGES)}"
    )


def same_model(run: Run) -> tuple[str, int]:
    """Runs that one training serves."""
    return run.task, run.seed


QUICK = {"tasks": ["NK"], "methods": [NONE, WITH.format(5)]}
STUDY = Study("few-treated", __doc__, list(TYPES), METHODS, work, page, together=same_model, quick=QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
