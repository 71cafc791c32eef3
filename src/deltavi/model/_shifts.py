"""How far, and in which direction, the cells of a prediction are moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from scvi.model.base import VAEMixin

from deltavi import _keys
from deltavi._cp10k import cp10k_factors
from deltavi._errors import DeltaviError, examples
from deltavi._random import isolated_randomness
from deltavi._text import as_text
from deltavi.likelihood.base import to_numpy
from deltavi.model._base import CountModel
from deltavi.model._decoding import CellDecoder
from deltavi.model._training_means import (
    UNSCALED,
    TrainingMeans,
    log_weak_evidence,
    stretched,
    vectors_table,
    weights_table,
)
from deltavi.model.request import Request
from deltavi.module import VAE
from deltavi.perturbation.combination import combined_shift, parts_of
from deltavi.perturbation.estimators import Shift
from deltavi.registry.columns import require_known

# Query cells that decide how far a shift is stretched.
SCALED_CELLS = 300


class ShiftsMixin(VAEMixin, CountModel):
    """Carries the shifts of ``predict_perturbation``; the model keeps the means of its training cells."""

    module: VAE
    training_means: TrainingMeans | None = None

    def _shifted_positions(
        self,
        request: Request,
        before: np.ndarray,
        conditions: tuple[str, str],
        *,
        shift: str | np.ndarray,
        shift_scale: float | Literal["match"],
        bandwidth: float,
        similarity_space: str,
        effect_scale: float,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Latent positions after the perturbation, and what a prediction says of how they were found."""
        control, perturbation = conditions
        coordinates = self._coordinates(control) if similarity_space == "expression" else None
        estimate = partial(self._means().shift, control, estimator=shift, bandwidth=bandwidth, coordinates=coordinates)
        # a given vector is the whole response, whatever the perturbation consists of
        parts = self._parts(control, perturbation) if isinstance(shift, str) else (perturbation,)
        by_part = {
            part: self._shifts(request, before, (control, part), partial(estimate, part), shift_scale) for part in parts
        }
        for shifts, factors in by_part.values():
            log_weak_evidence(shifts, factors)
        groups = list(next(iter(by_part.values()))[0])
        shifts = {group: combined_shift({p: by_part[p][0][group] for p in by_part}, effect_scale) for group in groups}
        factors = {group: float(np.mean([by_part[p][1][group] for p in by_part])) for group in groups}
        displacements = [shifts[group].vector for group in request.groups]
        return (before + np.stack(displacements)).astype(np.float32) if displacements else before, {
            "shift": next(iter(shifts.values())).estimator if shifts else str(shift),
            "weights": weights_table(shifts, factors),
            "vectors": vectors_table(shifts),
        }

    def _shifts(
        self,
        request: Request,
        positions: np.ndarray,
        conditions: tuple[str, str],
        estimate: Callable[..., Shift],
        shift_scale: float | Literal["match"],
    ) -> tuple[dict[str, Shift], dict[str, float]]:
        """Shift of each group of the query, and the factor it was scaled by."""
        means = self._means()
        shifts, factors = {}, {}
        for group in dict.fromkeys(request.groups):
            members = np.flatnonzero(request.groups == group)
            query = positions[members].mean(0)
            shift = estimate(query=query)
            factor = 1.0 if shift_scale == "match" else float(shift_scale)
            if shift_scale != "match":
                shift = replace(shift, vector=factor * shift.vector)
            elif shift.estimator not in UNSCALED:
                observed = means.observed_change(*conditions, shift)
                chosen = request.some_of(group, SCALED_CELLS)
                with isolated_randomness(0):
                    decoded = self._decoded_change(request, chosen, positions[chosen], conditions)
                    shift, factor = stretched(shift, observed, decoded)
            shifts[str(group)], factors[str(group)] = shift, factor
        return shifts, factors

    def _means(self) -> TrainingMeans:
        if self.training_means is None:
            raise DeltaviError("The model keeps no means of its training cells; train it again.")
        return self.training_means

    def _coordinates(self, condition: str) -> Callable[[np.ndarray], np.ndarray]:
        """Function from latent positions to the profiles they decode to in `condition`, whatever the batch."""
        module, code = self.module, self._condition_code(condition)

        def profile(positions: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return np.asarray(to_numpy(module.decode_anywhere(torch.from_numpy(positions).float(), condition=code)))

        return profile

    @torch.inference_mode()
    def _decoded_change(
        self, request: Request, chosen: np.ndarray, positions: np.ndarray, conditions: tuple[str, str]
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Function from a latent displacement to the change of mean log expression it decodes to, ``(n_genes,)``."""
        cells = request.cells[chosen]
        loader = self._make_data_loader(adata=request.adata, indices=cells, batch_size=len(cells))
        decode = CellDecoder(self.module, next(iter(loader)))
        factors = cp10k_factors(request.totals[chosen])
        control, perturbation = (self._condition_code(name) for name in conditions)

        def log_mean(displacement: np.ndarray, condition: int) -> np.ndarray:
            with torch.inference_mode():
                rate = to_numpy(decode(positions + displacement, condition=condition).mean)
            if not self.module.of_counts:
                return np.asarray(rate.mean(0))
            return np.asarray(np.log1p((rate * factors[:, None]).mean(0)))

        start = log_mean(np.zeros(positions.shape[1]), control)
        return lambda displacement: log_mean(displacement, perturbation) - start

    def _parts(self, control: str, perturbation: str) -> tuple[str, ...]:
        """Measured conditions that the perturbation consists of."""
        known = [as_text(c) for c in self._categories(_keys.CONDITION)]
        parts = parts_of(perturbation, known, control=control)
        if len(parts) > 1 and self._knows_conditions():
            raise DeltaviError(
                f"{perturbation!r} was not measured, and this model decodes by condition: it cannot join "
                f"{examples(parts, len(parts))}. Use a model without condition_in_decoder or conditional."
            )
        return parts

    def _knows_conditions(self) -> bool:
        """Whether the networks are told the condition of a cell."""
        module = self.module
        return bool(getattr(module, "condition_in_decoder", False) or getattr(module, "conditional", False))

    def _condition_code(self, name: str) -> int:
        """Code of a condition, as the networks are told it; of joined conditions only those that are told none.

        Raises
        ------
        UnknownCategoryError
            If the networks are told conditions, and `name` is none of them.
        """
        known = [as_text(c) for c in self._categories(_keys.CONDITION)]
        if not self._knows_conditions():
            return known.index(name) if name in known else 0
        return known.index(require_known("condition", name, known))
