"""Prediction of the cells of one condition under another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, overload

import numpy as np
from anndata import AnnData
from scvi.model.base import RNASeqMixin, VAEMixin

from deltavi import _keys
from deltavi._text import as_text
from deltavi._types import State
from deltavi.io import PathLike
from deltavi.model._asked import BATCH_SIZE, conditions_asked, groups_of, request_of
from deltavi.model._base import CountModel
from deltavi.model._decoding import Output
from deltavi.model._encoding import get_latent_representation, get_marginal_ll, impute
from deltavi.model._many import predict_perturbations
from deltavi.model._mean_responses import MEANS
from deltavi.model._normalised import get_normalized_expression
from deltavi.model._parameters import (
    get_feature_correlation_matrix,
    get_latent_library_size,
    get_likelihood_parameters,
)
from deltavi.model._prediction import answer, delivery_of
from deltavi.model._question import (
    Condition,
    Draws,
    EmpiricalWeight,
    Question,
    Route,
    ShiftStrategy,
    share_of,
)
from deltavi.model._training_means import TrainingMeans
from deltavi.model._treated import treated_of
from deltavi.model.recipe import Parts
from deltavi.model.request import check_options, layers_asked
from deltavi.module import VAE as VAEModule
from deltavi.registry.columns import require_known


class Responds(RNASeqMixin, VAEMixin, CountModel):
    """Base of the models that predict responses; the module gives latent positions and a decoder."""

    module: VAEModule
    keeps: ClassVar[Parts] = (MEANS,)
    # ways to the latent positions after a perturbation that are no shift, by the name that ``shift`` takes
    routes: ClassVar[Mapping[str, Route]] = {}
    training_means: TrainingMeans | None = None
    # of the model that query data were mapped onto
    reference_means: TrainingMeans | None = None

    # what scvi-tools names is among the keywords
    get_latent_representation = get_latent_representation  # type: ignore[assignment]
    get_marginal_ll = get_marginal_ll  # type: ignore[assignment]  # keyword-only after the first two
    get_normalized_expression = get_normalized_expression  # type: ignore[assignment]  # as the others
    impute = impute
    get_likelihood_parameters = get_likelihood_parameters
    get_latent_library_size = get_latent_library_size
    get_feature_correlation_matrix = get_feature_correlation_matrix
    predict_perturbations = predict_perturbations

    @overload
    def predict_perturbation(
        self,
        adata: AnnData | None = ...,
        *,
        control: str,
        perturbation: str,
        labels: str | Sequence[str] | None = ...,
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
    def predict_perturbation(
        self,
        adata: AnnData | None = ...,
        *,
        control: str,
        perturbation: str,
        labels: str | Sequence[str] | None = ...,
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

    def predict_perturbation(
        self,
        adata: AnnData | None = None,
        *,
        control: str,
        perturbation: str,
        labels: str | Sequence[str] | None = None,
        path: PathLike | None = None,
        overwrite: bool = False,
        layers: str | Sequence[str] | None = None,
        progress: bool = False,
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
        """Predict how cells would look under another condition.

        Each cell is encoded, moved by the shift of its label, and decoded with its own library size, batch and
        covariates. Its expression is then moved from what the model expects of it as it is to what it expects after
        the shift, at the same quantile, so that it keeps its own residual, and zeros where the perturbation has them.

        Parameters
        ----------
        adata
            Cells to predict, with any gene order; by default those of the model. Cells of condition `control` are
            predicted, or all cells if the condition column is missing.
        control, perturbation
            Conditions to start from and to predict. A perturbation that was not measured may join measured ones, as in
            ``"A+B"``: their shifts, and the changes seen in the training labels, are added.
        labels
            Predict cells of these labels only; a label may be new to the model.
        path
            File to write, .h5ad or .zarr, instead of an AnnData in memory: matrices are written as cells are decoded,
            so that of all cells obs and latent positions alone are in memory. It takes its place once it is complete.
        overwrite
            Write to `path` though it exists.
        layers
            Layers to keep, such as ``"counts"``; none for ``[]``, by default all. X is always there.
        progress
            Show a progress bar, if standard error is a terminal or in a notebook.
        shift
            How to estimate the move: ``"similarity"``, ``"gp"``, ``"paired"``, ``"nearest"``, ``"global"``,
            ``"scgen"`` (see :func:`deltavi.perturbation.estimate_shift`), a vector ``(n_latent,)``, or an estimator of
            one's own, a function from :class:`deltavi.perturbation.Evidence` to
            :class:`deltavi.perturbation.Shift`.
            ``"similarity"`` weights training labels by how close their control cells lie to those of the query; where
            no labels were registered it is ``"global"``. MIXVI with ``conditional=True`` has two further ways:
            ``"z"`` keeps the latent position and decodes it under `perturbation`; ``"w"`` keeps the component of the
            cell and its w, and decodes the mean of that component there. Of a cell ``"w"`` leaves what w says; where
            that is little (``get_kl_per_dimension``), cells of a component differ by their residual alone.
        shift_scale
            Factor of the shift. ``"match"`` scales it until the change it decodes to is as large as the change
            seen in the training labels it comes from (posterior means are drawn towards the prior, and shifts
            between them come out short); the paper's ``"scgen"`` and a given vector are used as they stand.
        output
            ``"cells"`` carries each cell's residual; ``"mean"`` is the expectation of log expression alone, far less
            variable than measured cells.
        draws
            ``"matched"`` keeps each cell's residual, and moves cells until their mean is the predicted one;
            ``"independent"`` draws counts of each cell anew from the likelihood after the perturbation, whose mean is
            the predicted one in expectation, so that answers with different seeds are independent samples.
        n_samples
            Draws of the posterior; with more than one, layers ``"lower"`` and ``"upper"`` hold a 90 % predictive
            interval of each cell and gene.
        bandwidth
            Width of the weights of ``"similarity"``, relative to the mean distance.
        similarity_space
            Where labels are compared for ``"similarity"`` and ``"nearest"``: by the expression (log1p CP10k) that
            their mean latent positions decode to, or by these positions (``"latent"``).
        empirical_weight
            Weight, from 0 to 1, of the measured response of the training labels in the predicted one: the change of
            each gene's mean is that much of the change that a crossed Gaussian process of all measured conditions and
            labels predicts in gene space (:class:`deltavi.perturbation.ResponseModel`, fitted at the first question),
            and the model's own for the rest. Treated cells of the label itself enter as one observation, however few.
            Averaging two estimators with different errors beats either. ``"auto"`` is one half for ``"similarity"`` and
            ``"gp"`` with ``shift_scale="match"``, and none for another shift or scale.
        effect_scale
            Factor of the response, 1 for that of the measured perturbation.
        treated
            A few cells of the groups of the query that were treated with `perturbation`, genes matched by name. They
            fix the length of the response, which control cells do not tell, and, the more of them there are, single
            genes; groups without such cells are predicted as otherwise.
        invalid_cells
            ``"drop"`` leaves out cells with NaN, infinite or non-count values; ``"error"`` names them.
        batch_size
            Cells decoded at a time; the answer does not depend on it.
        seed
            Seed of quantiles within counts and of sampled counts; each cell's noise depends on it and on its name.

        Returns
        -------
        AnnData of the predicted cells, or `path` of a file with the same. X: log1p CP10k (without counts: the scale of
        the input). layers: ``"rate"`` expected counts, ``"counts"`` counts sampled from the likelihood. obs: that of
        the input, with the condition set to `perturbation` and the cell's origin in ``"deltavi_source_condition"`` and
        ``"deltavi_source_cell"``.
        obsm: latent positions after (``"X_deltavi"``) and before (``"X_deltavi_control"``). uns ``"deltavi"``: what was
        done, with the weight of each training label, and in ``"own_weights"`` that of each label's own cells under
        `perturbation`: where it is not zero the answer describes measured cells rather than predicts them. With labels,
        varm ``"deltavi_change"``, ``"deltavi_lower"`` and ``"deltavi_upper"``: change of each gene's mean in each label
        of the query, log1p CP10k, and its 90 % interval (as wide as it has to be for training labels predicted from one
        another; NaN with fewer than three); uns ``"deltavi"["uncertainty"]``: expected squared error relative to the
        squared response (``uncertainty``), the largest of a training label that the others predict
        (``max_training_uncertainty``), and the skill that such predictions had; see :func:`deltavi.get.uncertainty`.

        Raises
        ------
        NotTrainedError
            Before training.
        UnknownCategoryError
            If a condition or label does not exist; the message lists the known ones.
        InputDataError, GeneMatchError
            If `adata` holds values or genes the model cannot read.
        DeltaviError
            If `path` exists or names no such file, the prediction has none of the `layers`, or the model does not go
            the way that `shift` names.
        FileWriteError
            If the disk is full or the folder read-only; what was there before is unchanged.

        Warns
        -----
        NotHeldOutWarning
            If the cells are training cells, and cells of their label under `perturbation` (of their batch, where
            batches are registered) were so, too. Of cells of another AnnData, as of a new donor, it is logged.
        """
        self._require_trained("predict_perturbation")
        start, end = conditions_asked(self, control, perturbation)
        check_options(output, invalid_cells, similarity_space, draws)
        kept = layers_asked(layers, of_counts=self.module.of_counts, n_samples=n_samples)
        read = self._adata, adata, treated
        delivery = delivery_of(path, overwrite=overwrite, layers=kept, progress=progress, read=read)
        adata = self._query(adata, start.name, {"shift": shift, "shift_scale": shift_scale})
        request = request_of(self, adata, control=start.name, labels=labels, drop=invalid_cells == "drop")
        question = Question(
            control=start,
            perturbation=end,
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
        few = treated_of(self, treated, request, end.name)
        return answer(self, request, question, few, delivery, batch_size=batch_size)

    @property
    def knows_conditions(self) -> bool:
        """True of a model whose networks are given the condition of a cell."""
        module = self.module
        return bool(getattr(module, "condition_in_decoder", False) or getattr(module, "conditional", False))

    def _condition(self, name: str) -> Condition:
        """Condition of this name.

        Parameters
        ----------
        name
            Name of a condition.

        Raises
        ------
        UnknownCategoryError
            If it is none of `perturbation_names`.
        """
        measured, known = self._categories(_keys.CONDITION), self.perturbation_names
        code = known.index(require_known("condition", name, known))
        return Condition(name, (name,) if code < len(measured) else (), code)

    @property
    def perturbation_names(self) -> list[str]:
        """Conditions that can be predicted by name, in the order of their codes: the measured ones first."""
        return [as_text(name) for name in self._categories(_keys.CONDITION)]

    def _query(self, adata: AnnData | None, control: str, options: State) -> AnnData | None:
        """`adata` as the networks are asked about it, where a model minds; it may refuse some `options`."""
        return adata

    def _groups(self, adata: AnnData, aligned: AnnData) -> np.ndarray:
        """Group of each cell that has a shift of its own, ``(n_cells,)``: its label. `aligned` holds the same cells."""
        return groups_of(self, adata)
