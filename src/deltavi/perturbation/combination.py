"""Perturbations given together: "A+B" is what A does plus what B does, unless it was measured itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from deltavi._entries import number, shown
from deltavi._errors import DeltaviError, UnknownCategoryError, examples, unknown_category
from deltavi._text import meant
from deltavi.perturbation.estimators import Shift
from deltavi.registry.conditions import SEPARATOR, canonical_name, parts_in, same_condition


def parts_of(perturbation: str, known: Iterable[str], *, control: str, kind: str = "condition") -> tuple[str, ...]:
    """Measured conditions that `perturbation` consists of: itself, or those that a "+" joins in its name, in any order.

    Raises
    ------
    UnknownCategoryError
        It is not among `known`, and not all of its parts are.
    DeltaviError
        A part is the control, or the same part stands twice; ask for an effect_scale instead.
    """
    names = list(known)
    measured = same_condition(perturbation, names)
    if measured is not None:
        return (measured,)
    asked = parts_in(perturbation)
    found = [meant(part, names) for part in asked]
    for part, name in zip(asked, found, strict=True):
        if name is None:
            kind = kind if len(asked) == 1 else f"part of {perturbation!r}"
            raise _renamed(part, names, control) or unknown_category(kind, part, names)
    parts = tuple(name for name in found if name is not None)
    if control in parts or len(set(parts)) < len(parts):
        raise DeltaviError(
            f"{perturbation!r} must join different conditions other than the control {control!r}. For more of one "
            "condition pass effect_scale."
        )
    return parts


def _renamed(part: str, names: list[str], control: str) -> UnknownCategoryError | None:
    """Build the error that suggests a renaming if `part` occurs together with the control only."""
    written = [name for name in names if canonical_name(name, control=control) == part and name != part]
    if not written:
        return None
    return UnknownCategoryError(
        f"{part!r} stands in the data as {examples(written)}, together with the control {control!r}: such "
        "conditions have to be renamed before the model is set up. deltavi.pp.canonical_conditions(adata, "
        f"condition_key, control={control!r}) writes {part!r}."
    )


def check_effect_scale(effect_scale: object) -> float:
    """`effect_scale` as a number; raises DeltaviError unless it is finite."""
    try:
        return number("effect_scale", effect_scale)
    except DeltaviError:
        raise DeltaviError(
            f"effect_scale must be a number, 1 for the measured perturbation, not {shown(effect_scale)}."
        ) from None


__all__ = ["SEPARATOR", "check_effect_scale", "combined_shift", "parts_of"]


def combined_shift(shifts: Mapping[str, Shift], effect_scale: float = 1.0) -> Shift:
    """Sum of the shifts of several conditions, times `effect_scale`; labels are prefixed by their condition."""
    if len(shifts) == 1:
        (shift,) = shifts.values()
        return shift if effect_scale == 1 else _scaled(shift, effect_scale)
    tables = {
        name: {f"{label} ({part})": n for part, shift in shifts.items() for label, n in vars(shift)[name].items()}
        for name in ("weights", "n_control", "n_perturbed")
    }
    first = next(iter(shifts.values()))
    vector = np.sum([shift.vector for shift in shifts.values()], axis=0)
    uncertainty = max(shift.uncertainty for shift in shifts.values())
    return Shift(effect_scale * vector, first.estimator, **tables, uncertainty=uncertainty)


def _scaled(shift: Shift, effect_scale: float) -> Shift:
    return replace(shift, vector=effect_scale * shift.vector)
