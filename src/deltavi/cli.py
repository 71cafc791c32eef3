"""Command line: ``deltavi demo`` predicts a held-out response and says how good the prediction is."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from deltavi._errors import DeltaviError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from deltavi.tl import HeldOut, PerturbationEvaluation

SHOWN = {
    "correlation_of_changes": "correlation of changes",
    "correlation_of_changes_top": "same, top 100 genes",
    "r2_of_means_top": "R2 of means, top 100",
    "mse_top": "MSE, top 100",
    "e_distance": "E-distance",
    "variance_ratio": "variance ratio",
    "zero_fraction": "zeros",
}
DRAWN = ["correlation_of_changes", "correlation_of_changes_top", "e_distance"]
SIMULATED_TYPE = "type_3"
MODEL = "SCGEN"


def build_parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(prog="deltavi", description="Predict what single cells become.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="predict a held-out response and compare it with simple baselines",
        description="Train SCGEN without the target cells of one label, predict them, compare with every baseline, "
        "and write the predicted cells, the model, the table and a figure. Simulated data unless --data is given. With "
        "--all every label is held out in turn, and the table of all, its summary and a figure are written.",
    )
    demo.add_argument("--data", type=Path, help="h5ad file with raw counts (default: a simulated experiment)")
    demo.add_argument("--holdout", help="label whose target cells are held out")
    demo.add_argument("--all", action="store_true", help="hold out every label in turn, and write scores of all")
    demo.add_argument("--jobs", type=int, default=1, help="processes of --all, each of one thread (%(default)s)")
    demo.add_argument("--condition-key", default="condition", help="obs column of the condition (%(default)s)")
    demo.add_argument("--labels-key", default="cell_type", help="obs column of the label (%(default)s)")
    demo.add_argument("--control", default="control", help="condition to start from (%(default)s)")
    demo.add_argument("--target", default="stimulated", help="condition to predict (%(default)s)")
    demo.add_argument("--layer", help="layer with the raw counts (default: X)")
    demo.add_argument("--genes", type=int, default=2000, help="variable genes to model (%(default)s)")
    demo.add_argument("--epochs", type=int, help="passes over the data (default: by number of cells)")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random (%(default)s)")
    demo.add_argument("--threads", type=int, default=1, help="threads of PyTorch (%(default)s)")
    demo.add_argument("--out", type=Path, default=Path("deltavi-demo"), help="output folder (%(default)s)")
    demo.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it worked, 2 with a message on standard error if the input was wrong."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        run_demo(options)
    except (DeltaviError, OSError) as error:
        print(f"deltavi {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def run_demo(options: argparse.Namespace) -> HeldOut | PerturbationEvaluation:
    """Predict, print and write; returns what was found."""
    import torch

    for name in ("genes", "threads", "jobs"):
        if getattr(options, name) < 1:
            raise DeltaviError(f"--{name} must be at least 1, not {getattr(options, name)}.")
    if options.all and options.holdout is not None:
        raise DeltaviError(f"--all holds out every label: leave out --holdout {options.holdout}, or --all.")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # lightning walks over batches with a torch helper that torch deprecated
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        return _hold_out_all(options) if options.all else _hold_out_one(options)


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments that one hold-out and all of them share."""
    return {
        "control": options.control,
        "target": options.target,
        "condition_key": options.condition_key,
        "labels_key": options.labels_key,
        "layer": options.layer,
        "n_genes": options.genes,
    }


def _hold_out_one(options: argparse.Namespace) -> HeldOut:
    """One label: prediction, model, scores and a figure of the cells."""
    from deltavi.tl import predict_held_out

    adata, label = _load(options), options.holdout or SIMULATED_TYPE
    print(f"{adata.n_obs} cells x {adata.n_vars} genes; to hold out: {label} under {options.target}.")
    result = predict_held_out(
        adata,
        label=label,
        max_epochs=options.epochs,
        seed=options.seed,
        train_kwargs={"enable_progress_bar": not options.quiet},
        **_asked(options),
    )
    print(f"\n{format_table(result.table)}\n\n{result.verdict}")
    for path in write_results(result, options.out):
        print(f"wrote {path}")
    return result


def _hold_out_all(options: argparse.Namespace) -> PerturbationEvaluation:
    """Every label in turn: scores of all, their means, and a figure of these."""
    from deltavi.model import SCGEN
    from deltavi.tl import Method, evaluate_perturbation

    adata = _load(options)
    print(f"{adata.n_obs} cells x {adata.n_vars} genes; to hold out: each label under {options.target}.")
    evaluation = evaluate_perturbation(
        adata,
        {MODEL: Method(SCGEN, train_kwargs={"max_epochs": options.epochs})},
        seeds=options.seed,
        n_jobs=options.jobs,
        progress=not options.quiet,
        **_asked(options),
    )
    means = cast("pd.DataFrame", evaluation.summary().xs("mean", axis=1, level="statistic"))
    print(f"\n{format_table(means)}\n\n{evaluation.verdict()}")
    for skipped in evaluation.skipped.itertuples():
        print(f"left out: {skipped.hold_out} under {skipped.target}: {skipped.reason}")
    for path in write_evaluation(evaluation, options.out):
        print(f"wrote {path}")
    return evaluation


def _load(options: argparse.Namespace) -> AnnData:
    """The data, of which at least one label can be held out."""
    if options.data is None:
        from deltavi.data import simulate_perturbation

        return simulate_perturbation(n_genes=1000, n_cell_types=6, n_cells_per_group=120, seed=options.seed)
    import anndata

    from deltavi.data._columns import column

    if not options.data.is_file():
        raise DeltaviError(f"{options.data} is not a file.")
    try:
        adata = anndata.read_h5ad(options.data)
    except OSError as error:
        raise DeltaviError(f"{options.data} cannot be read as h5ad: {error}") from error
    if options.holdout is None and not options.all:
        known = ", ".join(sorted(set(column(adata, options.labels_key).astype(str))))
        raise DeltaviError(f"Say which label to hold out with --holdout: one of {known}; or all in turn with --all.")
    return adata


def format_table(table: pd.DataFrame) -> str:
    """Scores as text, best first, with the headings of `SHOWN`."""
    shown = table[list(SHOWN)].rename(columns=SHOWN).rename_axis(None).rename_axis(None, axis=1)
    return shown.to_string(float_format=lambda value: f"{value:.3f}")


def write_results(result: HeldOut, folder: Path) -> list[Path]:
    """Write predicted cells, model, table and figure into `folder`; existing ones are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    cells, model, table, figure = (folder / name for name in ("predicted.h5ad", "model", "scores.csv", "figure.png"))
    result.predicted.write_h5ad(cells)
    result.model.save(model, overwrite=True)
    result.table.to_csv(table)
    plot_result(result, figure)
    return [cells, model, table, figure]


def write_evaluation(evaluation: PerturbationEvaluation, folder: Path) -> list[Path]:
    """Write the table, what was skipped, the means and a figure into `folder`; existing ones are replaced."""
    files = evaluation.save(folder)
    summary, figure = folder / "summary.csv", folder / "figure.png"
    evaluation.summary().to_csv(summary)
    evaluation.plot(metrics=DRAWN, highlight=MODEL, show=False, save=figure)
    return [*files, summary, figure]


def plot_result(result: HeldOut, path: Path) -> None:
    """Draw predicted against real means, and control, real and predicted cells in one UMAP."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from deltavi import pl

    figure = Figure(figsize=(11, 5), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    pl.reg_mean(result.predicted, result.real, control=result.control_cells, ax=left, show=False)
    left.set_title(f"{result.label}, {result.target}: mean expression")
    pl.prediction_umap(result.control_cells, result.real, result.predicted, ax=right, show=False)
    right.set_title("control, real and predicted cells")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
