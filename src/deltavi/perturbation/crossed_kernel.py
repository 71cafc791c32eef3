"""Covariance of responses over contexts and perturbations, before noise.

For contexts c, c' and perturbations z, z', with 1 for each part that was given and 0 elsewhere, it is

    (sum z) (sum z') (w_g + w_c Kc(c, c')) + (z . z') (w_p + w_x Kc(c, c') + w_o [same pair]) .

The first term depends on the contexts but for a factor; the second vanishes where perturbations have no common part.
Both are those of a sum, so that "A+B" responds as A and B together, but for what is a pair's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from deltavi._types import State

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_table import ResponseTable

IDENTITY, SIMILARITY, PRODUCT = "identity", "similarity", "product"
KERNELS = (IDENTITY, SIMILARITY, PRODUCT)
# Distances that a similarity falls with, in units of the mean squared distance between contexts.
WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
# Share of a context that resembles no other, where several perturbations can tell it from that of a single pair.
OWN_SHARES = (0.05, 0.4)
# Covariance of contexts that differ in a key, relative to those that share it.
SHARED = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class ContextKernel:
    """Similarity of contexts, 1 for a context with itself.

    Attributes
    ----------
    name
        "identity": contexts have nothing in common; "similarity": falls with the squared distance of control means;
        "product": over the keys of a context, each of which contexts have in common or not.
    scale
        Squared distance at which the similarity has fallen to 1 / e.
    own
        Share of a context that resembles no other.
    shared
        For each key, similarity of contexts that differ in it.
    """

    name: str = IDENTITY
    scale: float = 1.0
    own: float = 0.0
    shared: tuple[float, ...] = ()

    def between(self, table: ResponseTable) -> Vector:
        """``(n_contexts, n_contexts)`` of the contexts of a table."""
        n = len(table.contexts)
        found = np.eye(n)
        if self.name == SIMILARITY:
            found = np.exp(-cdist(table.control_means, table.control_means, "sqeuclidean") / self.scale)
        if self.name == PRODUCT:
            found = np.array([self._product(table, level) for level in table.levels]).reshape(n, n)
        return np.asarray((1 - self.own) * found + self.own * np.eye(n))

    def towards(self, table: ResponseTable, profile: Vector | None, levels: Sequence[str | None]) -> Vector:
        """``(n_contexts,)`` of a context that is not in the table, by its control means and the values of its keys."""
        if self.name == SIMILARITY and profile is not None:
            squared = cdist(np.asarray(profile, dtype=np.float64)[None], table.control_means, "sqeuclidean")[0]
            return np.asarray((1 - self.own) * np.exp(-squared / self.scale))
        if self.name == PRODUCT:
            return (1 - self.own) * self._product(table, levels)
        return np.zeros(len(table.contexts))

    def _product(self, table: ResponseTable, levels: Sequence[str | None]) -> Vector:
        known = np.array(table.levels, dtype=object)
        found = np.ones(len(known))
        for key, shared in enumerate(self.shared):
            found *= np.where(known[:, key] == levels[key], 1.0, shared)
        return found

    def as_dict(self) -> State:
        """Plain form, to be saved."""
        return {"name": self.name, "scale": self.scale, "own": self.own, "shared": list(self.shared)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, object]) -> ContextKernel:
        """Inverse of :meth:`as_dict`."""
        fields: State = dict(saved)
        return cls(str(fields["name"]), float(fields["scale"]), float(fields["own"]), tuple(fields["shared"]))


def settings_of(name: str, table: ResponseTable) -> list[ContextKernel]:
    """Kernels of one kind with the settings that are tried on a table."""
    if name == SIMILARITY:
        used = table.control_means[table.used_contexts]
        distances = cdist(used, used, "sqeuclidean")
        typical = distances.sum() / max(len(used) * (len(used) - 1), 1)
        own = OWN_SHARES if table.n_conditions > 1 else (0.0,)
        # contexts at one place are all alike
        scale = typical if typical > 0 else 1.0
        return [ContextKernel(SIMILARITY, float(width * scale), share) for share in own for width in WIDTHS]
    if name == PRODUCT:
        grid = np.stack(np.meshgrid(*[SHARED] * len(table.keys)), -1).reshape(-1, len(table.keys))
        return [ContextKernel(PRODUCT, shared=tuple(map(float, row))) for row in grid]
    return [ContextKernel(IDENTITY)]


@dataclass(frozen=True)
class Weights:
    """Shares of the parts of a response in its variance.

    Attributes
    ----------
    generic, perturbation, context, interaction, own
        Common to all pairs, to a perturbation, to a context, to a perturbation in similar contexts, to one pair.
    """

    generic: float
    perturbation: float
    context: float
    interaction: float
    own: float

    def of_contexts(self, similarity: Vector) -> Vector:
        """Covariance that depends on the contexts alone, for single perturbations."""
        return np.asarray(self.generic + self.context * similarity)

    def of_perturbations(self, similarity: Vector, in_common: Vector, same_pair: Vector) -> Vector:
        """Covariance of pairs by what they have in common, the similarity of contexts, and identity."""
        shared = self.perturbation + self.interaction * similarity + self.own * same_pair
        return np.asarray(in_common * shared)

    def prior(self, parts: Vector, unknown: Vector | float = 0.0) -> Vector:
        """Variance of pairs that are given `parts` ``(n_pairs, n_perturbations)`` and so many unknown ones."""
        of_contexts, of_parts = self.generic + self.context, self.perturbation + self.interaction + self.own
        return np.asarray((parts.sum(1) + unknown) ** 2 * of_contexts + ((parts**2).sum(1) + unknown) * of_parts)

    def as_list(self) -> list[float]:
        """The weights in the order of the attributes."""
        return [self.generic, self.perturbation, self.context, self.interaction, self.own]
