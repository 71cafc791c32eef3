"""The verb people come for: predict how cells would respond."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

import deltavi
from deltavi import _keys
from deltavi._entries import one_name, require_anndata
from deltavi._errors import DeltaviError, UnknownCategoryError, examples
from deltavi._random import isolated_randomness
from deltavi._text import as_text
from deltavi.model._decoding import CellDecoder, Output, Predicted, predict_cells, predictive_interval, stack
from deltavi.model._empirical_response import EmpiricalWeight, ResponseEvidence, report_evidence, unshifted
from deltavi.model._training_means import TrainingMeans
from deltavi.model.own_response import OwnResponseMixin
from deltavi.model.request import Request, assemble, check_options, of_labels
from deltavi.perturbation.estimators import ALL_CELLS
from deltavi.perturbation.noise import cell_generators
from deltavi.registry.checks import are_relative, cell_totals
from deltavi.registry.columns import category_names, column, require_known, used_categories
from deltavi.registry.conditions import same_condition
from deltavi.registry.covariates import SizeFactorField
from deltavi.registry.leftovers import require_free_sources
from deltavi.registry.valid_cells import valid_cells

logger = logging.getLogger("deltavi")

BATCH_SIZE = 512
CATEGORY_KEYS = (_keys.CONDITION, REGISTRY_KEYS.LABELS_KEY)


class PerturbationMixin(OwnResponseMixin):
    """Carries ``predict_perturbation``; the model gives latent positions and a decoder."""

    # of the model that query data were mapped onto: its cells still tell how labels respond
    reference_means: TrainingMeans | None = None

    def predict_perturbation(
        self,
        adata: AnnData | None = None,
        *,
        control: str,
        perturbation: str,
        labels: str | Sequence[str] | None = None,
        shift: str | np.ndarray = "similarity",
        shift_scale: float | Literal["match"] = "match",
        output: Output = "cells",
        n_samples: int = 1,
        bandwidth: float = 0.2,
        similarity_space: Literal["expression", "latent"] = "expression",
        empirical_weight: EmpiricalWeight = "auto",
        effect_scale: float = 1.0,
        invalid_cells: Literal["error", "drop"] = "error",
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
    ) -> AnnData:
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
        shift
            How to estimate the move: ``"similarity"``, ``"gp"``, ``"paired"``, ``"nearest"``, ``"global"``,
            ``"scgen"`` (see :func:`deltavi.perturbation.estimate_shift`), or a vector ``(n_latent,)``.
            ``"similarity"`` weights training labels by how close their control cells lie to those of the query; where
            no labels were registered it is ``"global"``.
        shift_scale
            Factor of the shift. ``"match"`` scales it until the change it decodes to is as large as the change
            seen in the training labels it comes from (posterior means are drawn towards the prior, and shifts
            between them come out short); the paper's ``"scgen"`` and a given vector are used as they stand.
        output
            ``"cells"`` carries each cell's residual; ``"mean"`` is the expectation of log expression alone, far less
            variable than measured cells.
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
            each gene's mean is that much of the change kriged between labels in gene space (see
            :func:`deltavi.perturbation.estimate_shift`), and the model's own for the rest. Averaging two estimators
            with different errors beats either. ``"auto"`` is one half for ``"similarity"`` and ``"gp"`` with
            ``shift_scale="match"``, and none for another shift or scale.
        effect_scale
            Factor of the response, 1 for that of the measured perturbation.
        invalid_cells
            ``"drop"`` leaves out cells with NaN, infinite or non-count values; ``"error"`` names them.
        batch_size
            Cells decoded at a time; the answer does not depend on it.
        seed
            Seed of quantiles within counts and of sampled counts; each cell's noise depends on it and on its name.

        Returns
        -------
        AnnData of the predicted cells. X: log1p CP10k (without counts: the scale of the input). layers: ``"rate"``
        expected counts, ``"counts"`` counts sampled from the likelihood. obs: that of the input, with the condition
        set to `perturbation` and the cell's origin in ``"deltavi_source_condition"`` and ``"deltavi_source_cell"``.
        obsm: latent positions after (``"X_deltavi"``) and before (``"X_deltavi_control"``). uns ``"deltavi"``: what was
        done, with the weight of each training label, and in ``"own_weights"`` that of each label's own cells under
        `perturbation`: where it is not zero the answer describes measured cells rather than predicts them. With labels,
        varm ``"deltavi_change"``, ``"deltavi_lower"`` and ``"deltavi_upper"``: change of each gene's mean in each label
        of the query, log1p CP10k, and its 90 % interval (as wide as it has to be for training labels predicted from one
        another; NaN with fewer than three); uns ``"deltavi"["uncertainty"]``: how far the query lies from the training
        labels (``uncertainty``, see :class:`deltavi.perturbation.Shift`), and the largest of these,
        ``max_training_uncertainty``.

        Raises
        ------
        NotTrainedError
            Before training.
        UnknownCategoryError
            If a condition or label does not exist; the message lists the known ones.
        InputDataError, GeneMatchError
            If `adata` holds values or genes the model cannot read.

        Warns
        -----
        NotHeldOutWarning
            If the cells are training cells, and cells of their label under `perturbation` (of their batch, where
            batches are registered) were so, too. Of cells of another AnnData, as of a new donor, it is logged.
        """
        self._require_trained("predict_perturbation")
        control, perturbation = self._asked(control, perturbation)
        check_options(output, invalid_cells, similarity_space)
        request = self._request(adata, control=control, labels=labels, drop=invalid_cells == "drop")
        before = self._positions(request.adata, request.cells)
        conditions = (control, perturbation)
        after, how = self._shifted_positions(
            request,
            before,
            conditions,
            shift=shift,
            shift_scale=shift_scale,
            bandwidth=bandwidth,
            similarity_space=similarity_space,
            effect_scale=effect_scale,
        )
        share = self._share(empirical_weight, shift, shift_scale)
        # an expectation draws no cells
        drawn_with = seed if output == "cells" else None
        evidence = self._response_evidence(
            request, before, after, conditions, share=share, effect_scale=effect_scale, seed=drawn_with
        )
        with isolated_randomness(seed):  # loaders and encoders draw, though no draw reaches the answer
            predicted = self._predict(
                request, before, after, conditions, evidence, output, n_samples, batch_size=batch_size, seed=seed
            )
        result = assemble(
            request,
            predicted,
            genes=self.gene_names,
            condition_key=self._condition_key(),
            perturbation=perturbation,
            conditions=[as_text(c) for c in self._categories(_keys.CONDITION)],
        )
        result.obsm[_keys.OBSM_LATENT_BEFORE], result.obsm[_keys.OBSM_LATENT_AFTER] = before, after
        result.uns[_keys.UNS_PREDICTION] = {
            "model": type(self).__name__,
            "control": control,
            "perturbation": perturbation,
            **how,
            "effect_scale": effect_scale,
            "output": output,
            "n_samples": n_samples,
            "seed": seed,
            "deltavi_version": deltavi.__version__,
        }
        if evidence is not None:
            report_evidence(result, evidence, request.groups)
        own = self._own_weights(request, conditions, how, evidence)
        result.uns[_keys.UNS_PREDICTION]["own_weights"] = own
        self._warn_of_own_cells(request, conditions[1], own)
        return result

    def _extra_state(self) -> dict[str, Any]:
        state = super()._extra_state()
        return state if self.training_means is None else {**state, "training_means": self.training_means.as_dict()}

    def _restore_extra_state(self, extra: dict[str, Any]) -> None:
        super()._restore_extra_state(extra)
        if "training_means" in extra:
            # older files have whole numbers with the decimals that pandas gave them
            renamed = {str(c): as_text(c) for key in CATEGORY_KEYS for c in self._categories(key)}
            self.training_means = TrainingMeans.from_dict(extra["training_means"]).renamed(renamed)

    # -- what is asked ---------------------------------------------------------------------------------------

    def _condition_key(self) -> str:
        key = self._setup_argument("condition_key")
        if key is None:
            raise DeltaviError("No condition was registered: pass condition_key to setup_anndata.")
        return str(key)

    def _asked(self, control: object, perturbation: object) -> tuple[str, str]:
        """Names of control and perturbation, as the model has them."""
        self._condition_key()
        known = self._categories(_keys.CONDITION)
        control, perturbation = (
            one_name(name, value, known) for name, value in (("control", control), ("perturbation", perturbation))
        )
        start = require_known("condition", control, known)
        end = same_condition(perturbation, [as_text(category) for category in known]) or as_text(perturbation)
        if start == end:
            raise DeltaviError(f"control and perturbation are both {start!r}: there is nothing to predict.")
        self._parts(start, end)
        return start, end

    def _request(
        self, adata: AnnData | None, *, control: str, labels: str | Sequence[str] | None, drop: bool
    ) -> Request:
        source = self._validate_anndata() if adata is None else require_anndata(adata)
        require_free_sources(source.obs, self._categories(_keys.CONDITION), key=self._condition_key())
        if adata is not None and drop:
            source = self._without_invalid(adata)
        key, groups = self._condition_key(), self._groups(source)
        chosen = of_labels(groups, labels)
        if key in source.obs:
            conditions = self._conditions_of(source)
            chosen = chosen & (conditions == control)
            if source.n_obs and not chosen.any():
                present = examples(sorted(set(conditions[of_labels(groups, labels)])), 10)
                among = "" if labels is None else f" among the cells of {labels!r}"
                raise UnknownCategoryError(
                    f"No cell{among} has obs[{key!r}] == {control!r}: there is nothing to start from. "
                    f"Conditions of those cells: {present}."
                )
        cells = np.flatnonzero(chosen)
        aligned = self._validate_anndata(None if adata is None else source)
        return Request(adata=aligned, cells=cells, groups=groups[cells], totals=self._totals(aligned)[cells])

    def _without_invalid(self, adata: AnnData) -> AnnData:
        layer, counts = self._setup_argument("layer"), self.module.of_counts
        good = valid_cells(adata, layer=layer, counts=counts)
        if good.all():
            return adata
        logger.info("%d of %d cells hold unusable values and are left out.", int((~good).sum()), adata.n_obs)
        return adata[good]

    def _groups(self, adata: AnnData) -> np.ndarray:
        """Label of each cell as text, or one group for all where there is no label column."""
        key = self._setup_argument("labels_key")
        if key is None or key not in adata.obs:
            return np.full(adata.n_obs, ALL_CELLS, dtype=object)
        return self._names(adata, key, REGISTRY_KEYS.LABELS_KEY)

    def _conditions_of(self, adata: AnnData) -> np.ndarray:
        """Condition of each cell as text, ``(n_cells,)``."""
        return self._names(adata, self._condition_key(), _keys.CONDITION)

    def _names(self, adata: AnnData, key: str, registry_key: str) -> np.ndarray:
        values = column(adata, key)
        used_categories(values, key)  # raises where values are missing
        return category_names(values, self._categories(registry_key))

    # -- where cells lie ---------------------------------------------------------------------------------------

    def _positions(self, adata: AnnData, cells: np.ndarray) -> np.ndarray:
        """Latent posterior means, ``(n_cells, n_latent)``."""
        if len(cells) == 0:
            return np.zeros((0, self.module.n_latent), dtype=np.float32)
        return np.asarray(self.get_latent_representation(adata, indices=cells, batch_size=BATCH_SIZE))

    def _after_training(self) -> None:
        """Keep mean position and expression of every label in every condition."""
        super()._after_training()
        if self._setup_argument("condition_key") is None:
            return
        adata, labels_key = self._validate_anndata(), self._setup_argument("labels_key")
        own = TrainingMeans.from_cells(
            self._positions(adata, np.arange(adata.n_obs)),
            self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY),
            totals=self._totals(adata) if self.module.of_counts else None,
            conditions=self._conditions_of(adata),
            labels=None if labels_key is None else self._groups(adata),
        )
        self.training_means = own if self.reference_means is None else self.reference_means.joined(own)

    # -- decoding --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _predict(
        self,
        request: Request,
        before: np.ndarray,
        after: np.ndarray,
        conditions: tuple[str, str],
        evidence: ResponseEvidence | None,
        output: Output,
        n_samples: int,
        *,
        batch_size: int,
        seed: int,
    ) -> Predicted:
        totals = request.totals
        names = request.adata.obs_names[request.cells]
        control, perturbation = (self._condition_code(name) for name in conditions)
        shifted = unshifted if evidence is None else evidence.shifted
        parts: list[Predicted] = []
        start = 0
        # scvi-tools takes an AnnData without cells for none at all
        loader = (
            self._make_data_loader(adata=request.adata, indices=request.cells, batch_size=batch_size)
            if len(request.cells)
            else ()
        )
        for tensors in loader:
            rows = slice(start, start + tensors[REGISTRY_KEYS.X_KEY].shape[0])
            decode = CellDecoder(self.module, tensors)
            generators = cell_generators(names[rows], seed=seed)
            own, groups = decode(after[rows], condition=perturbation), request.groups[rows]
            part = predict_cells(
                decode.observed,
                decode(before[rows], condition=control),
                shifted(own, groups),
                cells=shifted(own, groups, drawn=True) if output == "cells" else None,
                totals=totals[rows],
                output=output,
                generators=generators,
            )
            if n_samples > 1:
                lower, upper = predictive_interval(
                    lambda z, decode=decode, groups=groups: shifted(decode(z, condition=perturbation), groups),  # type: ignore[misc]
                    after[rows],
                    decode.posterior_scale,
                    totals=totals[rows],
                    n_samples=n_samples,
                    generators=generators,
                )
                part = replace(part, lower=lower, upper=upper)
            parts.append(part)
            start = rows.stop
        return stack(parts, len(self.gene_names), of_counts=self.module.of_counts, interval=n_samples > 1)

    def _totals(self, adata: AnnData) -> np.ndarray:
        """Total counts of each cell for CP10k: the registered size factor, or the sum over the model's genes.

        Relative size factors, such as pooled estimates around one, count in the unit of the training cells, so that
        the total of a cell does not depend on which others are asked about.
        """
        layer, key = self._setup_argument("layer"), self._setup_argument("size_factor_key")
        matrix = adata.X if layer is None else adata.layers[layer]
        if key is None:
            return cell_totals(matrix)
        given = np.asarray(adata.obs[key], dtype=np.float64)
        state = self._state(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        if SizeFactorField.UNIT_KEY in state:
            return given * float(state[SizeFactorField.UNIT_KEY])
        # a file of a version that did not keep it
        counted = cell_totals(matrix)
        return given * (counted.mean() / given.mean()) if are_relative(given, counted) else given
