"""Uniform draws of many generators of NumPy at once, equal to the bit.

A state is that of ``PCG64`` (O'Neill 2014): the upper and lower half of its position, and of its increment. It is
seeded as ``numpy.random.default_rng`` seeds it, by ``SeedSequence``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from deltavi.kernels.compiled import jit, part

LOW = np.uint64(0xFFFFFFFF)
SHIFT, HALF, ONE = np.uint64(16), np.uint64(32), np.uint64(1)
# Constants of SeedSequence, of which products are taken modulo 2^32.
INIT_A, MULT_A = np.uint64(0x43B0D7E5), np.uint64(0x931E8875)
INIT_B, MULT_B = np.uint64(0x8B51F9DD), np.uint64(0x58F38DED)
MIX_LEFT, MIX_RIGHT = np.uint64(0xCA01F9DD), np.uint64(0x4973F715)
POOL, WORDS = 4, 8
# Multiplier of PCG64, in halves.
MULT_HIGH, MULT_LOW = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)
ROTATION, DOUBLE, DIGITS = np.uint64(58), np.uint64(11), np.uint64(63)
UNIT = 1.0 / 9007199254740992.0


@part
def _hashed(value: np.uint64, constant: np.uint64, factor: np.uint64) -> tuple[np.uint64, np.uint64]:
    value ^= constant
    constant = (constant * factor) & LOW
    value = (value * constant) & LOW
    return value ^ (value >> SHIFT), constant


@part
def _mixed(left: np.uint64, right: np.uint64) -> np.uint64:
    value = (MIX_LEFT * left - MIX_RIGHT * right) & LOW
    return value ^ (value >> SHIFT)


@intrinsic
def _carried(context, left, right):
    """Upper half of the product of two words of 64 bits."""

    def generate(context, builder, signature, words):
        wide = ir.IntType(128)
        left, right = (builder.zext(word, wide) for word in words)
        return builder.trunc(builder.lshr(builder.mul(left, right), ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@part
def _stepped(high: np.uint64, low: np.uint64, inc_high: np.uint64, inc_low: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Position times multiplier plus increment, modulo 2^128."""
    new_low = low * MULT_LOW + inc_low
    new_high = _carried(low, MULT_LOW) + high * MULT_LOW + low * MULT_HIGH + inc_high
    return new_high + (ONE if new_low < inc_low else np.uint64(0)), new_low


@jit
def seed_states(seed: np.ndarray, keys: np.ndarray, states: np.ndarray) -> None:
    """Write the state of ``default_rng([seed, key])`` of every key into `states`.

    Parameters
    ----------
    seed
        Words of 32 bits of the seed, the lowest first.
    keys
        ``(n_cells,)`` numbers below 2^32.
    states
        ``(n_cells, 4)``.
    """
    pool, words = np.empty(POOL, np.uint64), np.empty(WORDS, np.uint64)
    entropy = np.zeros(max(POOL, len(seed) + 1), np.uint64)
    for cell in range(len(keys)):
        # word by word: an assignment to a slice would compile, for seconds, the message of its error too
        for i in range(len(seed)):
            entropy[i] = seed[i]
        entropy[len(seed)] = keys[cell]
        constant = INIT_A
        for i in range(POOL):
            pool[i], constant = _hashed(entropy[i], constant, MULT_A)
        for source in range(POOL):
            for i in range(POOL):
                if i != source:
                    value, constant = _hashed(pool[source], constant, MULT_A)
                    pool[i] = _mixed(pool[i], value)
        for source in range(POOL, len(seed) + 1):
            for i in range(POOL):
                value, constant = _hashed(entropy[source], constant, MULT_A)
                pool[i] = _mixed(pool[i], value)
        constant = INIT_B
        for i in range(WORDS):
            words[i], constant = _hashed(pool[i % POOL], constant, MULT_B)
        high, low = words[0] | (words[1] << HALF), words[2] | (words[3] << HALF)
        inc_high, inc_low = words[4] | (words[5] << HALF), words[6] | (words[7] << HALF)
        inc_high, inc_low = (inc_high << ONE) | (inc_low >> DIGITS), (inc_low << ONE) | ONE
        # the first step leads from zero to the increment
        total = low + inc_low
        high, low = high + inc_high + (ONE if total < low else np.uint64(0)), total
        states[cell, 0], states[cell, 1] = _stepped(high, low, inc_high, inc_low)
        states[cell, 2], states[cell, 3] = inc_high, inc_low


@part
def _unit(high: np.uint64, low: np.uint64) -> float:
    """Draw from [0, 1) at a position."""
    value, turn = high ^ low, high >> ROTATION
    value = (value >> turn) | (value << ((np.uint64(64) - turn) & DIGITS))
    return np.float64(value >> DOUBLE) * UNIT


@jit
def fill_uniforms(states: np.ndarray, found: np.ndarray) -> None:
    """Write the next draws from [0, 1) of every state into a row of `found`, and move the states on.

    Parameters
    ----------
    states
        ``(n_cells, 4)``.
    found
        ``(n_cells, n_draws)``.
    """
    # a step waits for the one before: two cells at a time, of which the last is taken twice if it is alone
    for start in range(0, len(states), 2):
        first, second = start, min(start + 1, len(states) - 1)
        high, low, inc_high, inc_low = states[first, 0], states[first, 1], states[first, 2], states[first, 3]
        high2, low2, inc_high2, inc_low2 = states[second, 0], states[second, 1], states[second, 2], states[second, 3]
        row, row2 = found[first], found[second]
        for i in range(len(row)):
            high, low = _stepped(high, low, inc_high, inc_low)
            high2, low2 = _stepped(high2, low2, inc_high2, inc_low2)
            row[i], row2[i] = _unit(high, low), _unit(high2, low2)
        states[first, 0], states[first, 1] = high, low
        states[second, 0], states[second, 1] = high2, low2


SIGNATURES = {
    seed_states: ["void(uint64[::1], uint64[::1], uint64[:, ::1])"],
    fill_uniforms: ["void(uint64[:, ::1], float64[:, ::1])"],
}
