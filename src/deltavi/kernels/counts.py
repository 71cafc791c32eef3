"""Log probability of counts with its gradients, a row of cells x genes at a time, in single precision.

A row passes through a few short loops that LLVM turns into vector instructions: a logarithm and two exponentials
by polynomials, and one logarithm of a product for the values. Terms of nonzero counts follow, one by one, in double
precision: products over k < x in place of differences of log Gamma, and one logarithm of their product.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from deltavi.kernels.compiled import jit, part

# Reordered sums become vectors; polynomials may only be contracted, which makes them more exact.
SUMS = {"contract", "reassoc", "nsz"}
POLYNOMIAL = {"contract"}

F = np.float32
ZERO, HALF, ONE = F(0), F(0.5), F(1)
LN2 = math.log(2)
# ln 2 as a sum whose first part has few digits, so that its multiples are exact
LN2_HIGH, LN2_LOW = F(0.693359375), F(LN2 - 0.693359375)
LOG2_E = F(1 / LN2)
# Adding it rounds to a whole number, which then stands in the last bits.
ROUNDING = F(1.5 * 2**23)
# Lowest exponent of which single precision holds the exponential with all its digits.
LOWEST = F(-87)
# Logits and logarithms beyond this are left to double precision.
FAR = F(70)
# Entries whose intermediate results stay in the processor's nearest cache.
AT_ONCE = 1024
# Factors near one whose product cannot overflow.
FACTORS = 128
# Whole counts up to this have their log-gamma differences as a product; and factors of one sum of logarithms.
LARGEST_PRODUCT = 16.0
DOUBLE_FACTORS = 511
# Added inside of logarithms by scvi-tools too.
EPS = 1e-8
# From here on the asymptotic series of digamma is exact to double precision.
ASYMPTOTIC = 8.0

INT32, FLOAT32 = ir.IntType(32), ir.FloatType()
INT64, FLOAT64 = ir.IntType(64), ir.DoubleType()
# Bits of the square root of one half: mantissas lie in [sqrt(1/2), sqrt(2)).
ROOT_HALF = ir.Constant(INT32, 0x3F3504F3)
EXPONENT_BITS = ir.Constant(INT32, -(1 << 23))


def _of_bits(build, of):
    """Function of one number by its bits, for which numba's own arithmetic would use wider integers."""

    @intrinsic
    def function(context, x):
        return of(of), lambda _, builder, __, arguments: build(builder, arguments[0])

    return function


def _exponent_bits(b, x):
    return b.and_(b.sub(b.bitcast(x, INT32), ROOT_HALF), EXPONENT_BITS)


# exponent of x, its mantissa, and two to the minus exponent
exponent = _of_bits(lambda b, x: b.sitofp(b.ashr(_exponent_bits(b, x), ir.Constant(INT32, 23)), FLOAT32), types.float32)
mantissa = _of_bits(lambda b, x: b.bitcast(b.sub(b.bitcast(x, INT32), _exponent_bits(b, x)), FLOAT32), types.float32)
inverse_power = _of_bits(
    lambda b, x: b.bitcast(b.sub(ir.Constant(INT32, 0x3F800000), _exponent_bits(b, x)), FLOAT32), types.float32
)
# two to the whole number that ROUNDING put into the last bits
power_of_two = _of_bits(
    lambda b, x: b.bitcast(b.shl(b.add(b.bitcast(x, INT32), ir.Constant(INT32, 127)), ir.Constant(INT32, 23)), FLOAT32),
    types.float32,
)
exponent64 = _of_bits(
    lambda b, x: b.sitofp(
        b.sub(b.lshr(b.bitcast(x, INT64), ir.Constant(INT64, 52)), ir.Constant(INT64, 1023)), FLOAT64
    ),
    types.float64,
)
mantissa64 = _of_bits(
    lambda b, x: b.bitcast(
        b.or_(b.and_(b.bitcast(x, INT64), ir.Constant(INT64, (1 << 52) - 1)), ir.Constant(INT64, 1023 << 52)),
        FLOAT64,
    ),
    types.float64,
)

# Fitted by exchange (Remez): (log(1 + x) - x + x^2 / 2) / x^3 between mantissas less one, 6e-9 relative to x ...
L0, L1, L2, L3, L4, L5, L6, L7 = (
    *(F(0.33333316784342276), F(-0.25000796563698413), F(0.20002282533649926), F(-0.16624969892975971)),
    *(F(0.14181419950105084), F(-0.1312529468645007), F(0.12879201465639842), F(-0.07865453160455405)),
)
# ... and (exp(x) - 1 - x) / x^2 within ln 2 / 2 of zero, 3e-9
E0, E1, E2, E3, E4 = (
    *(F(0.5000000093653328), F(0.16666519625678267), F(0.04166620906830884)),
    *(F(0.008368814803243436), F(0.0013950324472527377)),
)


@part(fastmath=POLYNOMIAL)
def log1p(x):
    """log(1 + x) for x >= 0; what 1 + x rounds off is added to the mantissa."""
    u = ONE + x
    rest = (x - (u - ONE)) * inverse_power(u)
    m = (mantissa(u) - ONE) + rest
    n = exponent(u)
    square = m * m
    p = ((((((L7 * m + L6) * m + L5) * m + L4) * m + L3) * m + L2) * m + L1) * m + L0
    return (m + (p * m * square + (n * LN2_LOW - HALF * square))) + n * LN2_HIGH


@part(fastmath=POLYNOMIAL)
def exp_below(x):
    """exp(x) for x <= 0, of `LOWEST` where x is lower."""
    x = LOWEST if x < LOWEST else x
    shifted = x * LOG2_E + ROUNDING
    n = shifted - ROUNDING
    x = (x - n * LN2_HIGH) - n * LN2_LOW
    p = ((E4 * x + E3) * x + E2) * x + E1
    return ((p * x + E0) * (x * x) + x + ONE) * power_of_two(shifted)


@part(fastmath=SUMS)
def _negative_binomial_zeros(rate, theta, inverse, weight, by_rate, by_theta):
    """Minus the log probability of zeros in a row, and its gradients."""
    total = ZERO
    for i in range(len(rate)):
        ratio = rate[i] * inverse[i]
        log = log1p(ratio)
        share = theta[i] * inverse[i] / (ONE + ratio)
        by_rate[i] = -weight * share
        by_theta[i] += -weight * (log - ratio * share)
        total += theta[i] * log
    return total


@part(fastmath=SUMS)
def _logs(rate, inverse, log):
    for i in range(len(rate)):
        log[i] = log1p(rate[i] * inverse[i])


@part(fastmath=SUMS)
def _exponentials(theta, log, logits, counted, only_zero, odds):
    """Probability of a zero without dropout, and odds of dropout or their inverse, whichever is below one.

    Returned are minus the log probabilities of a zero summed over nonzero counts, and a number that is zero unless
    an entry needs double precision.
    """
    total, far = ZERO, ZERO
    for i in range(len(theta)):
        minus_log = theta[i] * log[i]
        logit = logits[i]
        only_zero[i] = exp_below(-minus_log)
        odds[i] = exp_below(-abs(logit))
        # by factors, since conditions would keep the loop from vector instructions
        nonzero = counted[i]
        total += nonzero * minus_log
        least = nonzero * logit + (ONE - nonzero) * min(-logit, minus_log)
        # nothing times NaN or infinity is NaN
        far += (ONE if least > FAR else ZERO) + ZERO * (logit + minus_log)
    return total, far


@part(fastmath=SUMS)
def _with_dropout(logits, counted, weight, only_zero, odds, kept):
    """Turn `odds` into the probability of what was counted; `only_zero` into the gradient by logits."""
    for i in range(len(logits)):
        likely = logits[i] >= ZERO
        lost = ONE if likely else odds[i]
        not_lost = odds[i] if likely else ONE
        zero = not_lost * only_zero[i]
        any_zero = lost + zero
        any_count = ONE / (ONE + odds[i])
        nonzero = counted[i] > ZERO
        share = ONE if nonzero else zero / any_zero
        odds[i] = (not_lost if nonzero else any_zero) * any_count
        only_zero[i] = weight * (not_lost * any_count - share)
        kept[i] = share


@part(fastmath=SUMS)
def _slopes(rate, theta, inverse, kept, weight, by_rate, by_theta):
    """Gradients of zeros, of which `kept` were not lost; `by_rate` holds log(1 + rate / theta)."""
    for i in range(len(rate)):
        ratio = rate[i] * inverse[i]
        share = theta[i] * inverse[i] / (ONE + ratio)
        of_weight = -weight * kept[i]
        by_theta[i] += of_weight * (by_rate[i] - ratio * share)
        by_rate[i] = of_weight * share


@part(fastmath=SUMS)
def _product(values):
    """Mantissa, not reduced, and exponent of a product."""
    product, power = ONE, ZERO
    for i in range(len(values)):
        product *= mantissa(values[i])
        power += exponent(values[i])
    return product, power


@part
def _log_of_product(values):
    total = 0.0
    for start in range(0, len(values), FACTORS):
        product, power = _product(values[start : start + FACTORS])
        total += math.log(product) + power * LN2
    return total


@part
def _softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@part
def _sigmoid(x):
    e = math.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


@part
def _far_zeros(rate, theta, logits, counted, weight, by_rate, by_theta, by_logits):
    """Log probability of a row without terms of nonzero counts, and gradients, in double precision."""
    total = 0.0
    for i in range(len(rate)):
        size = np.float64(theta[i])
        logit = np.float64(logits[i])
        ratio = np.float64(rate[i]) / (size + EPS)
        log = math.log1p(ratio)
        both = logit + size * log
        share = 1.0
        if counted[i] > ZERO:
            total += -_softplus(logit) - size * log
        else:
            total += _softplus(-both) - _softplus(-logit)
            share = _sigmoid(-both)
        slope = size / (size + EPS) / (1 + ratio)
        by_logits[i] = weight * (_sigmoid(-logit) - share)
        by_rate[i] = -weight * share * slope
        by_theta[i] += -weight * share * (log - ratio * slope)
    return total


@part
def _digamma(x):
    """Derivative of log Gamma at x > 0: recurrence to where the asymptotic series holds."""
    below = 0.0
    while x < ASYMPTOTIC:
        below += 1 / x
        x += 1
    s = 1 / (x * x)
    series = s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s * (1 / 132 - s * (691 / 32760 - s / 12))))))
    return math.log(x) - 0.5 / x - series - below


@part
def _nonzeros(gene, count, rate, theta, weight, by_rate, by_theta):
    """Difference of the log probability of nonzero counts from that of zeros without dropout; gradients are added.

    The result is NaN where anything is not finite.
    """
    product, power, total = 1.0, 0.0, 0.0
    for k in range(len(gene)):
        g = gene[k]
        x, size, mean = np.float64(count[k]), np.float64(theta[g]), np.float64(rate[g]) + EPS
        inverse = 1 / (size + mean)
        share = mean * inverse
        slope, value = 1 / size, size * share
        if x <= LARGEST_PRODUCT and x == math.floor(x):
            step = 1.0
            while step < x:
                value *= (size + step) * share
                slope += 1 / (size + step)
                step += 1
        else:
            value = np.float64(1)
            slope = _digamma(size + x) - _digamma(size)
            total += math.lgamma(size + x) - math.lgamma(size) + x * math.log(share)
        product *= mantissa64(value)
        power += exponent64(value)
        total += value - value
        if k & DOUBLE_FACTORS == DOUBLE_FACTORS:
            total += math.log(product)
            product = 1.0
        of_count = x * inverse
        by_rate[g] += weight * (of_count * size / mean)
        by_theta[g] += weight * (slope - of_count)
    return total + math.log(product) + power * LN2


@part
def _invert(theta, inverse):
    # an assignment to a slice would compile, for seconds, the message of its error too
    for i in range(len(theta)):
        inverse[i] = ONE / (theta[i] + F(EPS))


@jit
def negative_binomial(rate, theta, starts, gene, count, weights, total, by_rate, by_theta):
    """Log probability of each row, but for the factorials of its counts, and gradients of their weighted sum.

    Parameters
    ----------
    rate
        ``(n_rows, n_genes)`` expected counts.
    theta
        ``(1 or n_rows, n_genes)`` inverse dispersion.
    starts, gene, count
        Nonzero counts, and the ``(n_rows + 1,)`` places where each row of them begins.
    weights
        ``(n_rows,)`` weight of each row in the sum.
    total
        ``(n_rows,)`` to be filled.
    by_rate, by_theta
        Gradients to be filled, ``(n_rows, n_genes)`` or a single row to be overwritten; that by theta is added to.
    """
    inverse = np.empty(rate.shape[1], np.float32)
    for r in range(len(rate)):
        t, b, s = min(r, len(theta) - 1), min(r, len(by_rate) - 1), min(r, len(by_theta) - 1)
        if r == 0 or len(theta) > 1:
            _invert(theta[t], inverse)
        of_row = slice(starts[r], starts[r + 1])
        zeros = _negative_binomial_zeros(rate[r], theta[t], inverse, weights[r], by_rate[b], by_theta[s])
        total[r] = (
            _nonzeros(gene[of_row], count[of_row], rate[r], theta[t], weights[r], by_rate[b], by_theta[s]) - zeros
        )


@jit
def zero_inflated(rate, theta, logits, starts, gene, count, weights, total, by_rate, by_theta, by_logits):
    """The same with dropout logits ``(n_rows, n_genes)``, and the gradient by them."""
    n_genes = rate.shape[1]
    inverse, counted = np.empty(n_genes, np.float32), np.zeros(n_genes, np.float32)
    kept, odds = np.empty(AT_ONCE, np.float32), np.empty(AT_ONCE, np.float32)
    for r in range(len(rate)):
        t, b, s = min(r, len(theta) - 1), min(r, len(by_rate) - 1), min(r, len(by_theta) - 1)
        if r == 0 or len(theta) > 1:
            _invert(theta[t], inverse)
        first, last = starts[r], starts[r + 1]
        for k in range(first, last):
            counted[gene[k]] = ONE
        of_row = 0.0
        for start in range(0, n_genes, AT_ONCE):
            stop = min(start + AT_ONCE, n_genes)
            of_row += _zero_inflated_zeros(
                *(rate[r, start:stop], theta[t, start:stop], inverse[start:stop], logits[r, start:stop]),
                *(counted[start:stop], weights[r], by_rate[b, start:stop], by_theta[s, start:stop]),
                *(by_logits[b, start:stop], kept[: stop - start], odds[: stop - start]),
            )
        for k in range(first, last):
            counted[gene[k]] = ZERO
        total[r] = of_row + _nonzeros(
            gene[first:last], count[first:last], rate[r], theta[t], weights[r], by_rate[b], by_theta[s]
        )


@part
def _zero_inflated_zeros(rate, theta, inverse, logits, counted, weight, by_rate, by_theta, by_logits, kept, odds):
    """Log probability of a stretch of a row without terms of nonzero counts, and gradients."""
    # gradients hold intermediate results until they are known: fewer arrays are compared for overlap
    _logs(rate, inverse, by_rate)
    minus_log, far = _exponentials(theta, by_rate, logits, counted, by_logits, odds)
    if far != ZERO:
        return _far_zeros(rate, theta, logits, counted, weight, by_rate, by_theta, by_logits)
    _with_dropout(logits, counted, weight, by_logits, odds, kept)
    _slopes(rate, theta, inverse, kept, weight, by_rate, by_theta)
    return _log_of_product(odds) - minus_log


MATRIX, ROW, PLACES = "float32[:, ::1]", "float32[::1]", "int64[::1]"
SIGNATURES = {
    negative_binomial: [f"void({', '.join([MATRIX, MATRIX, PLACES, PLACES, ROW, ROW, ROW, MATRIX, MATRIX])})"],
    zero_inflated: [
        f"void({', '.join([MATRIX, MATRIX, MATRIX, PLACES, PLACES, ROW, ROW, ROW, MATRIX, MATRIX, MATRIX])})"
    ],
}
