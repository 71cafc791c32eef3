"""Softmax of the rows of a decoder, times the library size of each cell, and its gradient, in single precision."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from deltavi.kernels.compiled import jit, part

# Reordered sums become vectors; the polynomial may only be contracted, which makes it more exact.
SUMS = {"contract", "reassoc", "nsz"}
# A maximum becomes a vector only if NaN may be overlooked; it comes back with the exponential.
MAXIMUM = {*SUMS, "nnan"}
# Maxima that are kept side by side: of one alone, each comparison would wait for the one before.
MAXIMA = 128

F = np.float32
ZERO, ONE = F(0), F(1)
LN2 = math.log(2)
LN2_HIGH, LN2_LOW = F(0.693359375), F(LN2 - 0.693359375)
LOG2_E, ROUNDING, LOWEST = F(1 / LN2), F(1.5 * 2**23), F(-87)
# As in the kernels of counts, which are in another file because numba looks for changes in one file only.
E0, E1, E2, E3, E4 = (
    *(F(0.5000000093653328), F(0.16666519625678267), F(0.04166620906830884)),
    *(F(0.008368814803243436), F(0.0013950324472527377)),
)


@intrinsic
def _power_of_two(context, x):
    """Two to the whole number that ROUNDING put into the last bits."""
    int32 = ir.IntType(32)

    def build(_, b, __, arguments):
        bits = b.add(b.bitcast(arguments[0], int32), ir.Constant(int32, 127))
        return b.bitcast(b.shl(bits, ir.Constant(int32, 23)), ir.FloatType())

    return types.float32(types.float32), build


@part(fastmath={"contract"})
def _exp_below(x):
    """exp(x) for x <= 0, of `LOWEST` where x is lower."""
    x = LOWEST if x < LOWEST else x
    shifted = x * LOG2_E + ROUNDING
    n = shifted - ROUNDING
    x = (x - n * LN2_HIGH) - n * LN2_LOW
    p = ((E4 * x + E3) * x + E2) * x + E1
    return ((p * x + E0) * (x * x) + x + ONE) * _power_of_two(shifted)


@part(fastmath=MAXIMUM)
def _raise(maxima, values):
    for i in range(len(maxima)):
        maxima[i] = max(maxima[i], values[i])


@part(fastmath=MAXIMUM)
def _largest(values, maxima):
    """Largest of values; `maxima` is room for some of them."""
    for i in range(len(maxima)):
        maxima[i] = values[0]
    whole = len(values) - len(values) % len(maxima)
    for start in range(0, whole, len(maxima)):
        _raise(maxima, values[start : start + len(maxima)])
    found = maxima[0]
    for i in range(len(maxima)):
        found = max(found, maxima[i])
    for i in range(whole, len(values)):
        found = max(found, values[i])
    return found


@part(fastmath=SUMS)
def _exponentials(values, largest):
    """Replace values by their exponentials, relative to the largest; return their sum."""
    total = ZERO
    for i in range(len(values)):
        values[i] = _exp_below(values[i] - largest)
        total += values[i]
    return total


@part(fastmath=SUMS)
def _times(values, factor):
    for i in range(len(values)):
        values[i] *= factor


@part(fastmath=SUMS)
def _product(first, second):
    total = ZERO
    for i in range(len(first)):
        total += first[i] * second[i]
    return total


@part(fastmath=SUMS)
def _less_mean(slopes, rate, mean):
    for i in range(len(slopes)):
        slopes[i] = rate[i] * (slopes[i] - mean)


@jit
def rates(logits, library):
    """Turn logits of shares ``(n_cells, n_genes)`` into expected counts, of cells with `library` counts each."""
    maxima = np.empty(MAXIMA, np.float32)
    for r in range(len(logits)):
        total = _exponentials(logits[r], _largest(logits[r], maxima))
        _times(logits[r], library[r] / total)


@jit
def by_logits(slopes, rate, library):
    """Turn gradients by the rates, ``(n_cells, n_genes)``, into those by the logits that the rates came from."""
    for r in range(len(slopes)):
        _less_mean(slopes[r], rate[r], _product(slopes[r], rate[r]) / library[r])


MATRIX, ROW = "float32[:, ::1]", "float32[::1]"
SIGNATURES = {
    rates: [f"void({MATRIX}, {ROW})"],
    by_logits: [f"void({MATRIX}, {MATRIX}, {ROW})"],
}
