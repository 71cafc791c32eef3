"""Demonstration: a held-out response is predicted, scored, and written into a folder."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from deltavi._errors import DeltaviError, unknown_category
from deltavi.cli._options import SIMULATED_TYPE
from deltavi.cli._reading import add_columns, read_cells, require_columns

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from deltavi.cli._console import Console
    from deltavi.cli._output import OutputFolder
    from deltavi.tl import HeldOut, PerturbationEvaluation

SHOWN = {
    "explained": "share explained",
    "pearson_delta": "Pearson delta",
    "pearson_delta_top": "same, top 100 genes",
    "r2_of_means_top": "R2 of means, top 100",
    "mse_top": "MSE, top 100",
    "e_distance": "E-distance",
    "variance_ratio": "variance ratio",
    "zero_fraction": "zeros",
}
DRAWN = ["pearson_delta", "pearson_delta_top", "e_distance"]
MODEL = "SCGEN"
CELLS, MODEL_FOLDER, SCORES, FIGURE, SUMMARY = "predicted.h5ad", "model", "scores.csv", "figure.png", "summary.csv"
OF_ONE = (CELLS, MODEL_FOLDER, SCORES, FIGURE)
OF_ALL = ("table.csv", "skipped.csv", "predictions.csv", "settings.json", SUMMARY, FIGURE)
# Bytes per cell and gene: expression, rate and counts in single precision, and copies while they are written.
BYTES_OF_VALUE = 16
# Number of labels that an error lists.
MOST_LABELS = 20
# Warnings of single trainings that are shown; the settings that are written have all of them.
MOST_WARNINGS = 5
# Genes that are listed, and the false discovery rate at which they are counted.
MOST_GENES, FDR = 5, 0.05


def run_demo(options: argparse.Namespace, console: Console) -> HeldOut | PerturbationEvaluation:
    """Predict, print and write; return the result."""
    # imported here, since help and versions need no libraries
    from deltavi.cli._output import output_folder

    names = OF_ALL if options.all else OF_ONE
    with output_folder(options.out, names) as folder:
        adata = _load(options, console)
        _require_names(adata, options)
        with _quietly(options.threads):
            return (_hold_out_all if options.all else _hold_out_one)(adata, options, folder, console)


@contextmanager
def _quietly(n_threads: int | None) -> Iterator[None]:
    """Set the threads of torch in the block, one by default, and silence lightning; both are restored."""
    import torch

    from deltavi._threads import kept_threads
    from deltavi.tl.quiet import quiet_trainer

    with kept_threads(), quiet_trainer():
        torch.set_num_threads(n_threads or 1)
        yield


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments shared by one hold-out and by all of them."""
    return {
        "control": options.control,
        "perturbation": options.perturbation,
        "condition_key": options.condition_key,
        "labels_key": options.labels_key,
        "layer": options.layer,
        "n_genes": options.genes,
    }


def _hold_out_one(adata: AnnData, options: argparse.Namespace, folder: OutputFolder, console: Console) -> HeldOut:
    """One label: prediction, model, scores and a figure of the cells."""
    from deltavi.tl import predict_held_out

    label = SIMULATED_TYPE if options.holdout is None else options.holdout
    n_cells = int((adata.obs[options.labels_key].astype(str) == label).sum())
    folder.require_space(BYTES_OF_VALUE * n_cells * min(options.genes, adata.n_vars))
    console.note(f"{adata.n_obs} cells x {adata.n_vars} genes; to hold out: {label} under {options.perturbation}.")
    result = predict_held_out(
        adata,
        label=label,
        max_epochs=options.epochs,
        seed=options.seed,
        train_kwargs={"enable_progress_bar": False} if options.quiet else {},
        **_asked(options),
    )
    console.result(f"{format_table(result.table)}\n\n{result.conclusion}")
    for path in write_results(result, folder):
        console.result(f"wrote {path}")
    console.result(genes_that_change(adata, label, options))
    return result


def genes_that_change(adata: AnnData, label: str, options: argparse.Namespace) -> str:
    """Genes that the other labels say will change in `label`, and how surely; its treated cells are not read."""
    from deltavi import get
    from deltavi._text import names_of
    from deltavi.perturbation import ResponseModel
    from deltavi.registry.columns import column
    from deltavi.tl import differential_response, responses

    conditions, labels = (names_of(column(adata, key)) for key in (options.condition_key, options.labels_key))
    asked = (conditions == options.control) | ((conditions == options.perturbation) & (labels != label))
    keys: dict[str, Any] = {"condition_key": options.condition_key, "context_keys": options.labels_key}
    try:
        seen = adata[asked].copy()
        model = ResponseModel.fit(responses(seen, control=options.control, layer=options.layer, **keys))
        differential_response(seen, model, options.perturbation, contexts=label)
    except DeltaviError as error:
        return f"No table of genes: {error}"
    found = get.response_df(seen, fdr=FDR)
    if found.empty:
        return f"In {label} no gene is predicted to change at a false discovery rate of {FDR:.0%}."
    listed = "\n".join(
        f"  {row.gene}: {row.log2_fold_change:+.2f} log2 ({row.log2_lower:+.2f} to {row.log2_upper:+.2f}), "
        f"wrong direction {row.local_false_sign_rate:.1%}, called with as many cells {row.probability_called:.0%}"
        for row in found.head(MOST_GENES).itertuples()
    )
    return (
        f"In {label} {len(found)} of {seen.n_vars} genes are predicted to change at a false discovery rate of "
        f"{FDR:.0%}; the most certain:\n{listed}"
    )


def _hold_out_all(
    adata: AnnData, options: argparse.Namespace, folder: OutputFolder, console: Console
) -> PerturbationEvaluation:
    """Every label in turn: scores of all, their means, and a figure of these."""
    from deltavi.model import SCGEN
    from deltavi.tl import Method, evaluate_perturbation

    folder.require_space(0)
    console.note(f"{adata.n_obs} cells x {adata.n_vars} genes; to hold out: each label under {options.perturbation}.")
    evaluation = evaluate_perturbation(
        adata,
        {MODEL: Method(SCGEN, train_kwargs={"max_epochs": options.epochs})},
        seeds=options.seed,
        n_jobs=options.jobs or 1,
        progress=not options.quiet,
        **_asked(options),
    )
    for text in evaluation.warnings[:MOST_WARNINGS]:
        console.warn(text)
    if len(evaluation.warnings) > MOST_WARNINGS:
        console.note(f"{len(evaluation.warnings) - MOST_WARNINGS} more warnings are in settings.json.")
    means = cast("pd.DataFrame", evaluation.summary().xs("mean", axis=1, level="statistic"))
    console.result(f"{format_table(means)}\n\n{evaluation.conclusion()}")
    for skipped in evaluation.skipped.itertuples():
        console.result(f"left out: {skipped.hold_out} under {skipped.perturbation}: {skipped.reason}")
    for path in write_evaluation(evaluation, folder):
        console.result(f"wrote {path}")
    return evaluation


def _load(options: argparse.Namespace, console: Console) -> AnnData:
    """The data: simulated cells, or those of a file."""
    if options.data is None:
        from deltavi.datasets import simulate_perturbation

        return simulate_perturbation(n_genes=1000, n_cell_types=6, n_cells_per_group=120, seed=options.seed)
    adata = read_cells(options.data, note=console.note)
    if options.obs is not None:
        add_columns(adata, options.obs)
    return adata


def _require_names(adata: AnnData, options: argparse.Namespace) -> None:
    """Raise where a column, layer, condition or label does not exist; the message names the option."""
    from deltavi.registry.columns import column

    require_columns(adata, condition_key=options.condition_key, labels_key=options.labels_key)
    if options.layer is not None and options.layer not in adata.layers:
        raise unknown_category("--layer", options.layer, adata.layers, among="the layers")
    for option, key in (("control", options.condition_key), ("perturbation", options.condition_key)):
        known = _values(column(adata, key))
        if getattr(options, option) not in known:
            raise unknown_category(f"--{option}", getattr(options, option), known, among=f"obs[{key!r}]")
    labels = _values(column(adata, options.labels_key))
    if options.holdout is not None and options.holdout not in labels:
        raise unknown_category("--holdout", options.holdout, labels, among=f"obs[{options.labels_key!r}]")
    if options.holdout is None and not options.all and options.data is not None:
        listed = ", ".join(labels[:MOST_LABELS]) + (" and others" if len(labels) > MOST_LABELS else "")
        raise DeltaviError(f"Name the label to hold out with --holdout: one of {listed}; or all in turn with --all.")


def format_table(table: pd.DataFrame) -> str:
    """Scores as text, best first, with the headings of `SHOWN`."""
    shown = table[list(SHOWN)].rename(columns=SHOWN).rename_axis(None).rename_axis(None, axis=1)
    return shown.to_string(float_format=lambda value: f"{value:.3f}")


def write_results(result: HeldOut, folder: OutputFolder) -> Iterator[Path]:
    """Write predicted cells, model, table and figure, one after the other."""
    from deltavi.io import write_cells

    yield folder.write(CELLS, lambda part: write_cells(part, result.predicted))
    yield folder.write_folder(MODEL_FOLDER, lambda path: result.model.save(path, overwrite=True))
    yield folder.write(SCORES, result.table.to_csv)
    yield folder.write(FIGURE, lambda part: plot_result(result, part))


def write_evaluation(evaluation: PerturbationEvaluation, folder: OutputFolder) -> Iterator[Path]:
    """Write the tables, the settings, the means and a figure, one after the other."""
    with TemporaryDirectory() as scratch:
        for file in evaluation.save(scratch):
            yield folder.write(file.name, lambda part, file=file: shutil.copyfile(file, part))  # type: ignore[misc]
    yield folder.write(SUMMARY, evaluation.summary().to_csv)
    yield folder.write(FIGURE, lambda path: evaluation.plot(metrics=DRAWN, highlight=MODEL, show=False, save=path))


def plot_result(result: HeldOut, part: Path) -> None:
    """Draw predicted against real means, and control, real and predicted cells in one UMAP."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from deltavi import pl

    figure = Figure(figsize=(11, 5), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    pl.reg_mean(result.predicted, result.real, control=result.control_cells, ax=left, show=False)
    left.set_title(f"{result.label}, {result.perturbation}: mean expression")
    pl.prediction_umap(result.control_cells, result.real, result.predicted, ax=right, show=False)
    right.set_title("control, real and predicted cells")
    figure.savefig(part, dpi=150)


def _values(column: pd.Series) -> list[str]:
    """Distinct names of a column."""
    from deltavi.perturbation.inputs import as_names, known_names

    return known_names(as_names(column))
