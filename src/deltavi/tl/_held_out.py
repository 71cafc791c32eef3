"""Evaluation of one held-out response: train without it, predict it, and compare with simple baselines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anndata import AnnData

from deltavi._entries import seed_number, whole_number
from deltavi._errors import DeltaviError, InputDataWarning, examples
from deltavi._reading import known_arguments
from deltavi.model import SCGEN, VAE
from deltavi.model.own_response import held_out_by_caller
from deltavi.perturbation import baseline_predictions, compare, conclusion
from deltavi.registry.tables import in_memory
from deltavi.tl._experiment import prepare
from deltavi.tl._halves import few_controls, halved
from deltavi.tl._methods import Method
from deltavi.tl._splits import question_of, single_label
from deltavi.tl.quiet import quiet_trainer

if TYPE_CHECKING:
    import pandas as pd

# Every model that predicts perturbations descends from the VAE.
PerturbationModel = VAE


@known_arguments
@dataclass(frozen=True, eq=False)
class HeldOut:
    """Prediction of a response that was held out from training, with those of simple baselines.

    Parameters
    ----------
    label, control, perturbation
        The held-out group: cells of `label` under `perturbation`, predicted from those under `control`.
    predicted
        Predicted cells; see :meth:`deltavi.model.SCGEN.predict_perturbation`.
    real, control_cells
        Real cells of the label under either condition, log1p CP10k in X, raw counts in ``layers["counts"]``. The
        control cells are those that methods started from: one half where there are at least 20.
    table
        Scores of every method; see :func:`deltavi.perturbation.compare`.
    model
        The fitted model.
    reference_cells
        The other half of the control cells, which no method saw: the real change of the share explained is measured
        from them. None where there are too few for halves.
    """

    label: str
    control: str
    perturbation: str
    predicted: AnnData
    real: AnnData
    control_cells: AnnData
    table: pd.DataFrame
    model: PerturbationModel
    reference_cells: AnnData | None = None

    @property
    def conclusion(self) -> str:
        """One sentence on whether the model beat the best baseline."""
        return conclusion(self.table, type(self.model).__name__)


@known_arguments
def predict_held_out(
    adata: AnnData,
    *,
    label: str,
    control: str,
    perturbation: str,
    condition_key: str = "condition",
    labels_key: str = "cell_type",
    layer: str | None = None,
    n_genes: int = 2000,
    genes_from_all_cells: bool = False,
    model_class: type[PerturbationModel] = SCGEN,
    max_epochs: int | None = None,
    seed: int = 0,
    model_kwargs: Mapping[str, object] | None = None,
    predict_kwargs: Mapping[str, object] | None = None,
    train_kwargs: Mapping[str, object] | None = None,
) -> HeldOut:
    """Train a model without the cells of `label` under `perturbation`, predict them, and score every method.

    :func:`evaluate_perturbation` does this for every label in turn and for several methods.

    Parameters
    ----------
    adata
        Raw counts of all genes. It is not changed. Cells in a file are read into memory.
    label
        Label whose response is held out.
    control, perturbation
        Conditions to start from and to predict.
    condition_key, labels_key
        obs columns of condition and label.
    layer
        Layer with the raw counts; X when None.
    n_genes
        Number of variable genes to model.
    genes_from_all_cells
        Choose the genes with the held-out cells, too: a small leak, the same for every method, that some published
        comparisons have.
    model_class
        The model: one of :mod:`deltavi.model` that predicts perturbations.
    max_epochs, seed
        As in :meth:`deltavi.model.SCGEN.train`.
    model_kwargs, predict_kwargs, train_kwargs
        Further arguments of the model, of ``predict_perturbation`` and of ``train``.

    Returns
    -------
    The prediction, the real cells, the table of scores and the fitted model.

    Raises
    ------
    UnknownCategoryError
        If a column, condition or label does not exist.
    DeltaviError
        If the label has too few cells in either condition, no other label was seen in both, or a number is
        invalid.
    UnknownArgumentError
        If `predict_kwargs` names an argument that does not exist; this is raised before any training.
    """
    n_genes, seed = whole_number("n_genes", n_genes, least=1), seed_number("seed", seed)
    max_epochs = None if max_epochs is None else whole_number("max_epochs", max_epochs, least=1)
    method = Method(model_class, model_kwargs or {}, train_kwargs or {}, {"": predict_kwargs or {}})
    method = replace(method, train_kwargs={"max_epochs": max_epochs, **method.train_kwargs})
    # others than AnnData are refused below
    adata = in_memory(adata) if isinstance(adata, AnnData) else adata
    question = question_of(
        adata, control=control, perturbation=perturbation, condition_key=condition_key, labels_key=labels_key
    )
    if len(question.perturbations) != 1:
        raise DeltaviError(
            f"perturbation must be one condition, not {examples(question.perturbations)}: evaluate_perturbation "
            "holds out several."
        )
    hold_out = halved(single_label(question, label, question.perturbations[0]), question, seed)
    cells = prepare(
        adata,
        hold_out,
        condition_key=condition_key,
        layer=layer,
        n_genes=n_genes,
        genes_from_all_cells=genes_from_all_cells,
    )
    names = {"condition_key": condition_key, "labels_key": labels_key}
    conditions = {"control": question.control, "perturbation": hold_out.perturbation}
    predictions = baseline_predictions(cells.train, cells.query, **names, **conditions)
    with quiet_trainer():
        model = method.fit(cells.train, seed=seed, **names)
    with held_out_by_caller():
        predicted = model.predict_perturbation(cells.query, **{**conditions, "seed": seed, **(predict_kwargs or {})})
    all_predictions = {model_class.__name__: predicted, **predictions}
    reference = cells.reference if cells.reference.n_obs else None
    if reference is None:
        case = f"{hold_out.name} under {hold_out.perturbation}"
        warnings.warn(few_controls(cells.query.n_obs, case), InputDataWarning, stacklevel=2)
    table = compare(
        all_predictions, cells.real, cells.query, reference=reference, components=cells.components, seed=seed
    )
    return HeldOut(
        hold_out.name,
        question.control,
        hold_out.perturbation,
        predicted,
        cells.real,
        cells.query,
        table,
        model,
        reference,
    )


__all__ = ["HeldOut", "predict_held_out"]
