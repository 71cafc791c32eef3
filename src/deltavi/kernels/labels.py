"""Sums over labels of a density and a divergence, and their gradients, beside matrix products.

A pair is a cell and a label: all labels of a cell whose label is unknown, else its own. Of what belongs to a dimension
of a latent variable the values of all pairs lie side by side: `heads` holds means and then log variances.
"""

from __future__ import annotations

import numpy as np

from deltavi.kernels.compiled import jit

# Variances, at least a ten thousandth each, that are multiplied in double precision before a logarithm is taken.
AT_ONCE = 8
HALF, ONE, ZERO = np.float32(0.5), np.float32(1), np.float32(0)
LOG_TWO_PI = np.log(2 * np.pi)


@jit
def pairs_of(code: np.ndarray, n_labels: int, cell: np.ndarray, label: np.ndarray) -> int:
    """Write cell and label of every pair; return how many there are."""
    n = 0
    for i in range(len(code)):
        if code[i] >= 0:
            cell[n], label[n] = i, code[i]
            n += 1
        else:
            for y in range(n_labels):
                cell[n], label[n] = i, y
                n += 1
    return n


@jit
def hidden_layer(rows: np.ndarray, row: np.ndarray, columns: np.ndarray, label: np.ndarray, out: np.ndarray) -> None:
    """Positive part of a row, of that number, plus the column of the label, of every pair."""
    for i in range(len(label)):
        a, b, to = rows[row[i]], columns[label[i]], out[i]
        for j in range(len(to)):
            total = a[j] + b[j]
            to[j] = ZERO if total <= ZERO else total


@jit
def draw(
    heads: np.ndarray,
    variable: np.ndarray,
    noise: np.ndarray,
    cell: np.ndarray,
    label: np.ndarray,
    floor: np.float32,
    deviation: np.ndarray,
    z2: np.ndarray,
    kl: np.ndarray,
) -> None:
    """Write z2 of every pair, its deviation from the mean, and its divergence from a standard normal."""
    n_latent, n_pairs = variable.shape
    twice, product = np.zeros(n_pairs), np.ones(n_pairs)
    for d in range(n_latent):
        mean, of_dimension, apart, to = heads[d], variable[d], deviation[d], z2[d]
        for i in range(n_pairs):
            variance = of_dimension[i] + floor
            apart[i] = np.sqrt(variance) * noise[label[i], cell[i], d]
            to[i] = mean[i] + apart[i]
            twice[i] += variance + mean[i] * mean[i] - ONE
            product[i] *= variance
        if (d + 1) % AT_ONCE == 0 or d + 1 == n_latent:
            for i in range(n_pairs):
                twice[i] -= np.log(product[i])
                product[i] = 1.0
    for i in range(n_pairs):
        kl[i] = 0.5 * twice[i]


@jit
def density(
    heads: np.ndarray,
    variable: np.ndarray,
    z1: np.ndarray,
    weights: np.ndarray,
    cell: np.ndarray,
    label: np.ndarray,
    floor: np.float32,
    kl: np.ndarray,
    pull: np.ndarray,
    log_density: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Write the log density of z1 of every pair, and the sums of it and of the divergence over the pairs of cells."""
    n_latent, n_pairs = variable.shape
    twice, product = np.full(n_pairs, n_latent * LOG_TWO_PI), np.ones(n_pairs)
    for d in range(n_latent):
        mean, of_dimension, to = heads[d], variable[d], pull[d]
        for i in range(n_pairs):
            variance = of_dimension[i] + floor
            apart = z1[cell[i], d] - mean[i]
            to[i] = apart / variance
            twice[i] += apart * to[i]
            product[i] *= variance
        if (d + 1) % AT_ONCE == 0 or d + 1 == n_latent:
            for i in range(n_pairs):
                twice[i] += np.log(product[i])
                product[i] = 1.0
    sums[:] = ZERO
    for i in range(n_pairs):
        log_density[i] = -0.5 * twice[i]
        weight = weights[cell[i], label[i]]
        sums[0, cell[i]] += weight * log_density[i]
        sums[1, cell[i]] += weight * kl[i]


@jit
def density_back(
    by_sums: np.ndarray,
    weights: np.ndarray,
    cell: np.ndarray,
    label: np.ndarray,
    floor: np.float32,
    variable: np.ndarray,
    pull: np.ndarray,
    terms: np.ndarray,
    by_terms: np.ndarray,
    by_weights: np.ndarray,
    by_heads: np.ndarray,
    by_z1: np.ndarray,
) -> None:
    """Gradients by the terms of every pair, by weights, by mean and log variance of the density, and by z1."""
    n_latent, n_pairs = variable.shape
    by_weights[:] = ZERO
    by_z1[:] = ZERO
    for i in range(n_pairs):
        by_density, by_kl, weight = by_sums[0, cell[i]], by_sums[1, cell[i]], weights[cell[i], label[i]]
        by_weights[cell[i], label[i]] = by_density * terms[0, i] + by_kl * terms[1, i]
        by_terms[0, i], by_terms[1, i] = by_density * weight, by_kl * weight
    for d in range(n_latent):
        of_dimension, pulled, by_mean, by_log = variable[d], pull[d], by_heads[d], by_heads[n_latent + d]
        for i in range(n_pairs):
            variance, by_density = of_dimension[i] + floor, by_terms[0, i]
            by_mean[i] = pulled[i] * by_density
            by_log[i] = HALF * by_density * (pulled[i] * pulled[i] * variance - ONE) * (of_dimension[i] / variance)
        for i in range(n_pairs):
            by_z1[cell[i], d] -= by_mean[i]


@jit
def hidden_back(
    by_hidden: np.ndarray,
    hidden: np.ndarray,
    cell: np.ndarray,
    label: np.ndarray,
    by_rows: np.ndarray,
    by_columns: np.ndarray,
) -> None:
    """Gradients by what enters a hidden layer, in place, and their sums over the pairs of cells and of labels."""
    by_rows[:] = ZERO
    by_columns[:] = ZERO
    for i in range(len(cell)):
        by, at, to_row, to_column = by_hidden[i], hidden[i], by_rows[cell[i]], by_columns[label[i]]
        for j in range(len(by)):
            passed = by[j] if at[j] > ZERO else ZERO
            by[j] = passed
            to_row[j] += passed
            to_column[j] += passed


@jit
def draw_back(
    by_z2: np.ndarray,
    by_terms: np.ndarray,
    heads: np.ndarray,
    variable: np.ndarray,
    floor: np.float32,
    deviation: np.ndarray,
    by_heads: np.ndarray,
) -> None:
    """Gradients by mean and log variance of z2, from those by z2 and by the divergence."""
    n_latent, n_pairs = variable.shape
    for d in range(n_latent):
        by, mean, of_dimension, apart = by_z2[d], heads[d], variable[d], deviation[d]
        by_mean, by_log = by_heads[d], by_heads[n_latent + d]
        for i in range(n_pairs):
            variance, by_kl = of_dimension[i] + floor, by_terms[1, i]
            by_mean[i] = by[i] + by_kl * mean[i]
            by_log[i] = HALF * (by[i] * apart[i] + by_kl * (variance - ONE)) * (of_dimension[i] / variance)


_CUBE, _TABLE, _ROW, _CODES, _ONE = "float32[:, :, ::1]", "float32[:, ::1]", "float32[::1]", "int64[::1]", "float32"
SIGNATURES = {
    pairs_of: [f"int64({_CODES}, int64, {_CODES}, {_CODES})"],
    hidden_layer: [f"void({_TABLE}, {_CODES}, {_TABLE}, {_CODES}, {_TABLE})"],
    draw: [f"void({_TABLE}, {_TABLE}, {_CUBE}, {_CODES}, {_CODES}, {_ONE}, {_TABLE}, {_TABLE}, {_ROW})"],
    density: [
        f"void({_TABLE}, {_TABLE}, {_TABLE}, {_TABLE}, {_CODES}, {_CODES}, {_ONE}, {_ROW}, {_TABLE}, {_ROW}, {_TABLE})"
    ],
    density_back: [
        f"void({_TABLE}, {_TABLE}, {_CODES}, {_CODES}, {_ONE}, {_TABLE}, {_TABLE}, {_TABLE}, {_TABLE}, {_TABLE}, "
        f"{_TABLE}, {_TABLE})"
    ],
    hidden_back: [f"void({_TABLE}, {_TABLE}, {_CODES}, {_CODES}, {_TABLE}, {_TABLE})"],
    draw_back: [f"void({_TABLE}, {_TABLE}, {_TABLE}, {_TABLE}, {_ONE}, {_TABLE}, {_TABLE})"],
}
