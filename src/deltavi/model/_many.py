"""Prediction of many perturbations in many contexts at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from anndata import AnnData

from deltavi import _keys
from deltavi._entries import flag, names, one_name
from deltavi._errors import DeltaviError, InputDataWarning, examples
from deltavi._text import as_text
from deltavi.io import PathLike
from deltavi.model._asked import BATCH_SIZE, condition_key, conditions_asked
from deltavi.model._blocks import Screen, treated_by_perturbation
from deltavi.model._collected import in_file, in_memory
from deltavi.model._control_cells import control_cells
from deltavi.model._decoding import Output
from deltavi.model._other_genes import OtherGenes
from deltavi.model._prediction import delivery_of
from deltavi.model._question import Condition, Draws, EmpiricalWeight, Question, ShiftStrategy, share_of
from deltavi.model.request import check_options, layers_asked
from deltavi.perturbation import ResponseModel
from deltavi.registry.columns import require_known

if TYPE_CHECKING:
    from deltavi.model._responds import Responds


@overload
def predict_perturbations(
    self: Responds,
    adata: AnnData | None = ...,
    *,
    control: str,
    perturbations: str | Sequence[str] | None = ...,
    contexts: str | Sequence[str] | None = ...,
    responses: ResponseModel | None = ...,
    controls: bool = ...,
    path: None = ...,
    overwrite: bool = ...,
    layers: str | Sequence[str] | None = ...,
    progress: bool = ...,
    shift: str | np.ndarray | ShiftStrategy = ...,
    shift_scale: float | Literal["match"] = ...,
    output: Output = ...,
    draws: Draws = ...,
    n_samples: int = ...,
    bandwidth: float = ...,
    similarity_space: Literal["expression", "latent"] = ...,
    empirical_weight: EmpiricalWeight = ...,
    effect_scale: float = ...,
    treated: AnnData | None = ...,
    invalid_cells: Literal["error", "drop"] = ...,
    batch_size: int = ...,
    seed: int = ...,
) -> AnnData: ...


@overload
def predict_perturbations(
    self: Responds,
    adata: AnnData | None = ...,
    *,
    control: str,
    perturbations: str | Sequence[str] | None = ...,
    contexts: str | Sequence[str] | None = ...,
    responses: ResponseModel | None = ...,
    controls: bool = ...,
    path: PathLike,
    overwrite: bool = ...,
    layers: str | Sequence[str] | None = ...,
    progress: bool = ...,
    shift: str | np.ndarray | ShiftStrategy = ...,
    shift_scale: float | Literal["match"] = ...,
    output: Output = ...,
    draws: Draws = ...,
    n_samples: int = ...,
    bandwidth: float = ...,
    similarity_space: Literal["expression", "latent"] = ...,
    empirical_weight: EmpiricalWeight = ...,
    effect_scale: float = ...,
    treated: AnnData | None = ...,
    invalid_cells: Literal["error", "drop"] = ...,
    batch_size: int = ...,
    seed: int = ...,
) -> Path: ...


def predict_perturbations(
    self: Responds,
    adata: AnnData | None = None,
    *,
    control: str,
    perturbations: str | Sequence[str] | None = None,
    contexts: str | Sequence[str] | None = None,
    responses: ResponseModel | None = None,
    controls: bool = False,
    path: PathLike | None = None,
    overwrite: bool = False,
    layers: str | Sequence[str] | None = None,
    progress: bool = True,
    shift: str | np.ndarray | ShiftStrategy = "similarity",
    shift_scale: float | Literal["match"] = "match",
    output: Output = "cells",
    draws: Draws = "matched",
    n_samples: int = 1,
    bandwidth: float = 0.2,
    similarity_space: Literal["expression", "latent"] = "expression",
    empirical_weight: EmpiricalWeight = "auto",
    effect_scale: float = 1.0,
    treated: AnnData | None = None,
    invalid_cells: Literal["error", "drop"] = "error",
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> AnnData | Path:
    """Predict how cells would look under many conditions: every perturbation in every context.

    The cells are aligned, checked and encoded once. Each pair of a context and a perturbation is answered as
    :meth:`predict_perturbation` does, whose arguments these are where they are not listed here.

    Parameters
    ----------
    adata
        Cells to predict, with any gene order; by default those of the model. Cells of condition `control` are
        predicted, or all cells if the condition column is missing.
    control
        Condition to start from.
    perturbations
        Conditions to predict, sums as in ``"A+B"`` among them; by default all measured ones but the control.
    contexts
        Labels to predict; by default all that have control cells.
    responses
        Measured responses of all genes (:meth:`deltavi.perturbation.ResponseModel.fit`). With them the genes of
        `adata` that the networks do not model are predicted, too: counts are thinned or added to until the mean of a
        gene in its context has changed as predicted there, at each cell's own depth, and a cell that has more counts
        of a gene than others keeps more.
    controls
        Also return the control cells, with ``obs["deltavi_predicted"]`` False.
    path
        File to write, .h5ad or .zarr, pair by pair: one of them and the tables of obs and uns are in memory at a time.
        It takes its place once it is complete.
    overwrite
        Write to `path` though it exists.
    layers
        Layers to keep, such as ``"counts"``; by default all.
    progress
        Show a progress bar, if standard error is a terminal or in a notebook.
    shift, shift_scale, output, draws, n_samples, bandwidth, similarity_space, empirical_weight, effect_scale
        See :meth:`predict_perturbation`.
    treated
        A few treated cells of some of the pairs; the condition column says what they were treated with.
    invalid_cells, batch_size
        See :meth:`predict_perturbation`; cells are also dropped for values of genes that the networks do not model.
    seed
        Seed of all noise; each cell's depends on it and on its name. Matched cells have the same under each
        perturbation, independent ones another.

    Returns
    -------
    AnnData of all pairs, context by context, or `path`. As of :meth:`predict_perturbation`, and obs
    ``"deltavi_predicted"``. varm ``"deltavi_change"``, ``"deltavi_lower"`` and ``"deltavi_upper"``: a column for each
    pair, in the order of uns ``"deltavi"["pairs"]``, read by :func:`deltavi.get.changes`. uns ``"deltavi"``: the
    record of all pairs, read by :func:`deltavi.get.predictions`; :func:`deltavi.get.prediction` is the answer for one
    perturbation. With `responses`, genes of the networks come first, var ``"in_model"`` and ``"in_responses"`` say
    which is which, and the intervals of the other genes are those of `responses`; layers ``"lower"`` and ``"upper"``
    are NaN there, and so are those of control cells.

    Raises
    ------
    NotTrainedError
        Before training.
    UnknownCategoryError
        If a condition or context does not exist, or a context has no control cells; the message lists the known ones.
    InputDataError, GeneMatchError
        If `adata` holds values or genes the model cannot read, or `responses` knows no other gene.
    DeltaviError
        If a perturbation is the control, nothing is asked for, or `path` exists or names no such file.
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.

    Warns
    -----
    NotHeldOutWarning
        If the cells of some pairs were training cells under that perturbation, too.
    InputDataWarning
        If two names mean one perturbation, such as ``"A+B"`` and ``"B+A"``.

    Examples
    --------
    >>> import deltavi
    >>> cells = deltavi.datasets.simulate_perturbation(n_genes=40, n_cells_per_group=20)
    >>> deltavi.model.SCGEN.setup_anndata(cells, condition_key="condition", labels_key="cell_type")
    >>> model = deltavi.model.SCGEN(cells, n_hidden=16, n_latent=4)
    >>> model.train(max_epochs=1)  # doctest: +SKIP
    >>> found = model.predict_perturbations(control="control")  # doctest: +SKIP
    >>> deltavi.get.predictions(found)[["perturbation", "context", "n_cells"]]  # doctest: +SKIP
    """
    start, ends = perturbations_asked(self, control, perturbations)
    check_options(output, invalid_cells, similarity_space, draws)
    kept = layers_asked(layers, of_counts=self.module.of_counts, n_samples=n_samples)
    with_controls = flag("controls", controls)
    read = self._adata, adata, treated
    delivery = delivery_of(path, overwrite=overwrite, layers=kept, progress=progress, read=read)
    options = {"shift": shift, "shift_scale": shift_scale}
    cells = control_cells(
        self, adata, control=start.name, contexts=contexts, options=options, drop=invalid_cells == "drop"
    )
    question = Question(
        control=start,
        perturbation=ends[0],
        shift=shift,
        shift_scale=shift_scale,
        bandwidth=bandwidth,
        similarity_space=similarity_space,
        share=share_of(empirical_weight, shift, shift_scale),
        effect_scale=effect_scale,
        output=output,
        draws=draws,
        n_samples=n_samples,
        seed=seed,
    )
    screen = Screen(
        model=self,
        controls=cells,
        question=question,
        perturbations=ends,
        treated=treated_by_perturbation(self, treated, cells, ends),
        other=None if responses is None else OtherGenes.of(self, cells, responses),
        with_controls=with_controls,
        batch_size=batch_size,
    )
    if delivery.path is None:
        return in_memory(screen, layers=kept, progress=delivery.progress)
    return in_file(screen, delivery.path, layers=kept, progress=delivery.progress)


def perturbations_asked(
    model: Responds, control: object, perturbations: str | Sequence[str] | None
) -> tuple[Condition, tuple[Condition, ...]]:
    """Control, and the perturbations as the model has them, each once.

    Parameters
    ----------
    model
        A trained model.
    control, perturbations
        As they were asked for.
    """
    condition_key(model)
    known = [as_text(name) for name in model._categories(_keys.CONDITION)]
    start = require_known("condition", one_name("control", control, known), known)
    given = (
        [name for name in known if name != start] if perturbations is None else names("perturbations", perturbations)
    )
    if not given:
        others = [name for name in model.perturbation_names if name != start]
        raise DeltaviError(
            f"perturbations is empty: there is nothing to predict. There are {examples(others, 10) or 'none'}."
        )
    found: dict[tuple[str, ...], Condition] = {}
    for name in given:
        _, end = conditions_asked(model, start, one_name("perturbations", name, model.perturbation_names))
        same = found.setdefault(tuple(sorted(end.parts)) or (end.name,), end)
        if same is not end:
            warnings.warn(
                f"perturbations names {same.name!r} and {as_text(name)!r}, which are the same: predicted once, as "
                f"{same.name!r}.",
                InputDataWarning,
                stacklevel=4,
            )
    return model._condition(start), tuple(found.values())
