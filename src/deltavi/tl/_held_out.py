"""One held-out response, honestly: train without it, predict it, and compare with simple baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deltavi import _keys
from deltavi._errors import DeltaviError, unknown_category
from deltavi.data import select_genes
from deltavi.data._fields import column, require_known
from deltavi.data._prepare import TOTAL_COUNTS
from deltavi.metrics import principal_axes
from deltavi.model import SCGEN, VAE
from deltavi.perturbation import baseline_predictions, compare, verdict

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

# Every model that predicts perturbations descends from the VAE.
PerturbationModel = VAE
# Fewer real cells give neither a mean nor two halves worth comparing with.
SMALLEST_GROUP = 10


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Prediction of a response that was kept from the model, beside what simple baselines say.

    Parameters
    ----------
    label, control, target
        What was held out: cells of `label` under `target`, predicted from those under `control`.
    predicted
        Predicted cells; see :meth:`deltavi.model.SCGEN.predict_perturbation`.
    real, control_cells
        Real cells of the label under either condition, log1p CP10k in X, raw counts in ``layers["counts"]``.
    table
        Scores of every method; see :func:`deltavi.perturbation.compare`.
    model
        The fitted model.
    """

    label: str
    control: str
    target: str
    predicted: AnnData
    real: AnnData
    control_cells: AnnData
    table: pd.DataFrame
    model: PerturbationModel

    @property
    def verdict(self) -> str:
        """One sentence on whether the model beat the best baseline."""
        return verdict(self.table, type(self.model).__name__)


def predict_held_out(
    adata: AnnData,
    *,
    label: str,
    control: str,
    target: str,
    condition_key: str = "condition",
    labels_key: str = "cell_type",
    layer: str | None = None,
    n_genes: int = 2000,
    genes_from_all_cells: bool = False,
    model_class: type[PerturbationModel] = SCGEN,
    max_epochs: int | None = None,
    seed: int = 0,
    model_kwargs: dict[str, Any] | None = None,
    predict_kwargs: dict[str, Any] | None = None,
    train_kwargs: dict[str, Any] | None = None,
) -> HeldOut:
    """Train a model without the cells of `label` under `target`, predict them, and score every method.

    Parameters
    ----------
    adata
        Raw counts of all genes. It is not changed.
    label
        Label whose response is held out.
    control, target
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
        If the label has too few cells in either condition, or no other label was seen in both.
    """
    held_out = _held_out_cells(adata, label, control, target, condition_key, labels_key)
    prepared = _prepared(adata, None if genes_from_all_cells else held_out, condition_key, layer, n_genes)
    train = prepared[~held_out].copy()
    query = prepared[_of(prepared, {labels_key: label, condition_key: control})].copy()
    real = prepared[held_out].copy()
    predictions = baseline_predictions(
        train, query, condition_key=condition_key, labels_key=labels_key, control=control, target=target
    )
    setup: dict[str, Any] = {"condition_key": condition_key, "labels_key": labels_key, "size_factor_key": TOTAL_COUNTS}
    model_class.setup_anndata(train, layer=_keys.LAYER_COUNTS, **setup)
    model = model_class(train, seed=seed, **(model_kwargs or {}))
    model.train(max_epochs, **(train_kwargs or {}))
    predicted = model.predict_perturbation(
        query, **{"control": control, "target": target, "seed": seed, **(predict_kwargs or {})}
    )
    table = compare(
        {model_class.__name__: predicted, **predictions}, real, query, components=principal_axes(prepared.X), seed=seed
    )
    return HeldOut(str(label), str(control), str(target), predicted, real, query, table, model)


def _held_out_cells(
    adata: AnnData, label: str, control: str, target: str, condition_key: str, labels_key: str
) -> NDArray[np.bool_]:
    """Cells of the label under the target condition, after checking that the question makes sense."""
    conditions, labels = column(adata, condition_key).astype(str), column(adata, labels_key).astype(str)
    for given in (control, target):
        require_known("condition", given, sorted(set(conditions)))
    if str(label) not in set(labels):
        raise unknown_category("label", label, sorted(set(labels)))
    for condition in (control, target):
        n_cells = int(((conditions == str(condition)) & (labels == str(label))).sum())
        if n_cells < SMALLEST_GROUP:
            raise DeltaviError(
                f"{label!r} has {n_cells} cells under {condition!r}; at least {SMALLEST_GROUP} are needed to compare."
            )
    return np.asarray((conditions == str(target)) & (labels == str(label)))


def _of(adata: AnnData, wanted: dict[str, str]) -> NDArray[np.bool_]:
    masks = [np.asarray(adata.obs[key].astype(str) == str(value)) for key, value in wanted.items()]
    return np.asarray(np.logical_and.reduce(masks), dtype=bool)


def _prepared(
    adata: AnnData, held_out: NDArray[np.bool_] | None, condition_key: str, layer: str | None, n_genes: int
) -> AnnData:
    """All cells on the genes chosen without those held out: log1p CP10k in X, counts in a layer, totals in obs."""
    visible = adata if held_out is None else adata[~held_out]
    genes = select_genes(visible, n_top=n_genes, condition_key=condition_key, layer=layer).var_names
    everything = select_genes(adata, n_top=adata.n_vars, layer=layer)
    return everything[:, genes].copy()


__all__ = ["HeldOut", "predict_held_out"]
