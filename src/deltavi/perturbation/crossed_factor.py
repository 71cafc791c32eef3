"""Exact factorisation of the covariance of measured changes, for every signal-to-noise ratio at once.

In variances of one cell, the covariance of the measured changes of a gene whose signal-to-noise ratio is r is

    C(r) = r B + D + r M E A E' M + E diag(1 / n_control) E' .

B, of what perturbations have in common, is block-diagonal over groups of pairs that share parts; D, the noise of the
perturbed cells, is diagonal; what depends on the context, times the number of parts (M), and the noise of
control cells that all pairs of a context share have the rank of the number of contexts (E tells the context of each
pair). One eigendecomposition of each block of D^(-1/2) B D^(-1/2) serves every r, and the Woodbury identity adds the
last terms. Nothing is approximated, and groups need not be complete.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from deltavi._types import IntArray
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_kernel import Weights
    from deltavi.perturbation.crossed_table import ResponseTable


def blocks_of(parts: Vector) -> tuple[IntArray, ...]:
    """Groups of pairs that are connected by common parts, gathered by size: ``(n_groups, size)`` positions each."""
    n_pairs = len(parts)
    links = sparse.csr_matrix(parts)
    _, member = connected_components(sparse.bmat([[None, links], [links.T, None]]), directed=False)
    order = np.argsort(member[:n_pairs], kind="stable")
    starts = np.flatnonzero(np.diff(member[order], prepend=-1))
    groups = np.split(order, starts[1:])
    sizes = sorted({len(group) for group in groups})
    return tuple(np.stack([group for group in groups if len(group) == size]) for size in sizes)


@dataclass(frozen=True, eq=False)
class Factor:
    """Factorised covariance of measured changes.

    Rotated values are in the order in which the blocks list the pairs.

    Attributes
    ----------
    blocks
        Positions of pairs, see :func:`blocks_of`.
    rotations
        For each of the sizes, ``(n_groups, size, size)`` eigenvectors in columns.
    values
        ``(n_pairs,)`` eigenvalues, in rotated order.
    roots
        ``(n_pairs,)`` inverse standard errors of the perturbed means.
    loadings
        ``(n_pairs, 2 * n_contexts)`` rotated M E A^(1/2), beside the rotated E.
    control_noise
        ``(n_contexts,)`` noise of the control means.
    """

    blocks: tuple[IntArray, ...]
    rotations: tuple[Vector, ...]
    values: Vector
    roots: Vector
    loadings: Vector
    control_noise: Vector

    @classmethod
    def of(cls, table: ResponseTable, weights: Weights, similarity: Vector) -> Factor:
        """Factor of the covariance of the pairs of a table.

        Parameters
        ----------
        table, weights
            What was measured, and the parts of responses.
        similarity
            ``(n_contexts, n_contexts)``.
        """
        roots, blocks = np.sqrt(table.n_perturbed), blocks_of(table.parts)
        rotations, values = [], []
        for rows in blocks:
            context, own, same = table.context_of[rows], table.parts[rows], table.identities[rows]
            covariance = weights.of_perturbations(
                similarity[context[:, :, None], context[:, None, :]],
                own @ own.transpose(0, 2, 1),
                same[:, :, None] == same[:, None, :],
            )
            found, vectors = np.linalg.eigh(roots[rows][:, :, None] * covariance * roots[rows][:, None, :])
            values.append(np.maximum(found, 0).ravel())
            rotations.append(vectors)
        members = np.eye(len(table.contexts))[table.context_of]
        responding = table.parts.sum(1)[:, None] * _root(weights.of_contexts(similarity))[table.context_of]
        bare = cls(blocks, tuple(rotations), np.concatenate(values), roots, np.zeros((0, 0)), 1 / table.n_control)
        return replace(bare, loadings=bare.rotated(np.hstack([responding, members])))

    @property
    def of_contexts(self) -> Vector:
        """``(n_pairs, n_contexts)`` rotated E."""
        return self.loadings[:, len(self.control_noise) :]

    def rotated(self, values: Vector) -> Vector:
        """Whitened and rotated columns ``(n_pairs, n_columns)``."""
        found, start = np.empty(values.shape), 0
        for rows, vectors in zip(self.blocks, self.rotations, strict=True):
            part = self.roots[rows][:, :, None] * values[rows]
            end = start + rows.size
            found[start:end] = (vectors.transpose(0, 2, 1) @ part).reshape(rows.size, -1)
            start = end
        return found

    def rotated_back(self, values: Vector) -> Vector:
        """Transpose of :meth:`rotated`: rotates back, then whitens, ``(n_pairs, n_columns)``."""
        found, start = np.empty(values.shape), 0
        for rows, vectors in zip(self.blocks, self.rotations, strict=True):
            part = values[start : start + rows.size].reshape(*rows.shape, -1)
            found[rows] = self.roots[rows][:, :, None] * (vectors @ part)
            start += rows.size
        return found

    def back_squared(self, values: Vector) -> Vector:
        """Diagonal ``(n_pairs,)`` of what :meth:`rotated_back` makes of a diagonal matrix of `values`."""
        found, start = np.empty(len(values)), 0
        for rows, vectors in zip(self.blocks, self.rotations, strict=True):
            part = values[start : start + rows.size].reshape(rows.shape)
            found[rows] = self.roots[rows] ** 2 * np.einsum("bij,bj->bi", vectors**2, part)
            start += rows.size
        return found

    def at(self, ratio: float) -> Inverse:
        """Inverse of the covariance at one signal-to-noise ratio."""
        shrunk = 1 / (1 + ratio * self.values)
        scaled = self.loadings * np.sqrt(np.concatenate([np.full_like(self.control_noise, ratio), self.control_noise]))
        inner = np.linalg.cholesky(np.eye(scaled.shape[1]) + scaled.T @ (shrunk[:, None] * scaled))
        shared = solve_triangular(inner, (shrunk[:, None] * scaled).T, lower=True)
        log_determinant = float(2 * np.log(np.diag(inner)).sum() - np.log(shrunk).sum() - 2 * np.log(self.roots).sum())
        return Inverse(shrunk, shared, log_determinant)


@dataclass(frozen=True, eq=False)
class Inverse:
    """Inverse of the covariance in rotated coordinates: diag(shrunk) - shared' shared.

    Attributes
    ----------
    shrunk
        ``(n_pairs,)``.
    shared
        ``(2 * n_contexts, n_pairs)``.
    log_determinant
        Of the covariance itself.
    """

    shrunk: Vector
    shared: Vector
    log_determinant: float

    def solve(self, rotated: Vector) -> Vector:
        """The inverse times rotated columns ``(n_pairs, n_columns)``."""
        return np.asarray(self.shrunk[:, None] * rotated - self.shared.T @ (self.shared @ rotated))

    def quadratic(self, rotated: Vector, squared: Vector) -> Vector:
        """Quadratic form of each rotated column, given its squares, ``(n_columns,)``."""
        return np.asarray(self.shrunk @ squared - ((self.shared @ rotated) ** 2).sum(0))


def _root(covariance: Vector) -> Vector:
    """Matrix whose product with its transpose is `covariance`, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))
