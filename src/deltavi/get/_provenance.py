"""Record of how a prediction was made."""

from __future__ import annotations

from dataclasses import dataclass

from deltavi._reading import known_arguments


@known_arguments
@dataclass(frozen=True)
class Provenance:
    """Record of how a prediction was made.

    Attributes
    ----------
    model
        Name of the model; empty for a baseline.
    control, perturbation
        Conditions it starts from, and predicts.
    shift
        Estimator of the shift; empty if the prediction has none.
    empirical_weight
        Weight, from 0 to 1, of the measured response of the training labels; zero where none was added.
    effect_scale
        Factor of the response.
    seed
        Seed of quantiles and draws; ``None`` where nothing is drawn.
    version
        Version of deltavi that made it; empty where that is not kept.
    """

    model: str
    control: str
    perturbation: str
    shift: str
    empirical_weight: float
    effect_scale: float
    seed: int | None
    version: str
