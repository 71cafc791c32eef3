"""Displacement of the cells of a prediction in latent space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from deltavi._cp10k import cp10k_factors
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness
from deltavi._types import State
from deltavi.likelihood.base import to_numpy
from deltavi.model._decoding import CellDecoder
from deltavi.model._question import Question
from deltavi.model._training_means import (
    UNSCALED,
    TrainingMeans,
    log_weak_evidence,
    stretched,
    vectors_table,
    weights_table,
)
from deltavi.model.request import Request
from deltavi.perturbation.combination import combined_shift
from deltavi.perturbation.estimators import Shift

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

# Query cells that decide how far a shift is stretched.
SCALED_CELLS = 300
# Estimator that leaves cells where they are.
UNSHIFTED = "none"


def shifted_positions(
    model: Responds, request: Request, before: np.ndarray, question: Question
) -> tuple[np.ndarray, State]:
    """Latent positions after the perturbation, and a record of how they were found."""
    route = question.shift
    if isinstance(route, str) and route in model.routes:
        return model.routes[route](model, request, before, question), {"shift": route}
    control, perturbation = question.conditions
    is_estimated = isinstance(route, str) or callable(route)
    if is_estimated and not question.perturbation.parts:
        return before, _by_features_alone(question)
    coordinates = coordinates_of(model, question.control.code) if question.similarity_space == "expression" else None
    estimate = partial(
        means_of(model).shift,
        control,
        estimator=question.shift,
        bandwidth=question.bandwidth,
        coordinates=coordinates,
    )
    # a given vector is the whole response, whatever the perturbation consists of
    parts = question.perturbation.parts if is_estimated else (perturbation,)
    by_part = {part: _shifts(model, request, before, question, part, partial(estimate, part)) for part in parts}
    for shifts, factors in by_part.values():
        log_weak_evidence(shifts, factors)
    groups = list(next(iter(by_part.values()))[0])
    shifts = {
        group: combined_shift({p: by_part[p][0][group] for p in by_part}, question.effect_scale) for group in groups
    }
    factors = {group: float(np.mean([by_part[p][1][group] for p in by_part])) for group in groups}
    displacements = [shifts[group].vector for group in request.groups]
    return (before + np.stack(displacements)).astype(np.float32) if displacements else before, {
        "shift": next(iter(shifts.values())).estimator if shifts else str(question.shift),
        "weights": weights_table(shifts, factors),
        "vectors": vectors_table(shifts),
    }


def _shifts(
    model: Responds,
    request: Request,
    positions: np.ndarray,
    question: Question,
    part: str,
    estimate: Callable[..., Shift],
) -> tuple[dict[str, Shift], dict[str, float]]:
    """Shift of each group of the query to a `part` of the perturbation, and the factor it was scaled by."""
    means, shift_scale = means_of(model), question.shift_scale
    end = question.perturbation if part == question.perturbation.name else model._condition(part)
    codes = question.control.code, end.code
    shifts, factors = {}, {}
    for group in dict.fromkeys(request.groups):
        members = np.flatnonzero(request.groups == group)
        shift = estimate(query=positions[members].mean(0))
        factor = 1.0 if shift_scale == "match" else float(shift_scale)
        if shift_scale != "match":
            shift = replace(shift, vector=factor * shift.vector)
        elif shift.estimator not in UNSCALED:
            observed = means.observed_change(question.control.name, part, shift)
            chosen = request.some_of(group, SCALED_CELLS)
            with isolated_randomness(0):
                decoded = decoded_change(model, request, chosen, positions[chosen], codes)
                shift, factor = stretched(shift, observed, decoded)
        shifts[str(group)], factors[str(group)] = shift, factor
    return shifts, factors


def _by_features_alone(question: Question) -> State:
    """Record of a prediction without a shift; raises where one is asked for that no cells were measured for."""
    if question.shift != UNSHIFTED or question.share > 0:
        raise DeltaviError(
            f"No cells of {question.perturbation.name!r} were measured: neither a shift nor a response can be "
            f"estimated from them. Pass shift={UNSHIFTED!r}, which decodes the cells under that condition."
        )
    return {"shift": UNSHIFTED}


def means_of(model: Responds) -> TrainingMeans:
    """Means that the model keeps of its training cells."""
    if model.training_means is None:
        raise DeltaviError("The model keeps no means of its training cells; train it again.")
    return model.training_means


def coordinates_of(model: Responds, code: int) -> Callable[[np.ndarray], np.ndarray]:
    """Function from latent positions to the profiles they decode to in a condition, whatever the batch."""
    module = model.module

    def profile(positions: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(to_numpy(module.decode_anywhere(torch.from_numpy(positions).float(), condition=code)))

    return profile


@torch.inference_mode()
def decoded_change(
    model: Responds, request: Request, chosen: np.ndarray, positions: np.ndarray, codes: tuple[int, int]
) -> Callable[[np.ndarray], np.ndarray]:
    """Function from a latent displacement to the change of mean log expression it decodes to, ``(n_genes,)``."""
    decode = CellDecoder(model.module, request.loaded.take(request.cells[chosen]))
    factors = cp10k_factors(request.totals[chosen])
    control, perturbation = codes

    def log_mean(displacement: np.ndarray, condition: int) -> np.ndarray:
        with torch.inference_mode():
            rate = decode(positions + displacement, condition=condition).mean.cpu().numpy()
        if not model.module.of_counts:
            return np.asarray(rate.mean(0, dtype=np.float64))
        return np.asarray(np.log1p((rate * factors[:, None]).mean(0)))

    start = log_mean(np.zeros(positions.shape[1]), control)
    return lambda displacement: log_mean(displacement, perturbation) - start
