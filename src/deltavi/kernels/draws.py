"""Uniform draws of many generators of NumPy at once, equal to the bit.

A state is that of ``PCG64`` (O'Neill 2014): the upper and lower half of its position, and of its increment. It is
seeded as ``numpy.random.default_rng`` seeds it, by ``SeedSequence``.
"""

from __future__ import annotations

import numpy as np

from deltavi.kernels.compiled import jit

LOW = np.uint64(0xFFFFFFFF)
SHIFT, HALF, ONE = np.uint64(16), np.uint64(32), np.uint64(1)
# Constants of SeedSequence, of which products are taken modulo 2^32.
INIT_A, MULT_A = np.uint64(0x43B0D7E5), np.uint64(0x931E8875)
INIT_B, MULT_B = np.uint64(0x8B51F9DD), np.uint64(0x58F38DED)
MIX_LEFT, MIX_RIGHT = np.uint64(0xCA01F9DD), np.uint64(0x4973F715)
POOL, WORDS = 4, 8
# Multiplier of PCG64, in halves; those of its lower half again.
MULT_HIGH, MULT_LOW = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)
MULT_LOW_UPPER, MULT_LOW_LOWER = np.uint64(0x4385DF64), np.uint64(0x9FCCF645)
ROTATION, DOUBLE, DIGITS = np.uint64(58), np.uint64(11), np.uint64(63)
UNIT = 1.0 / 9007199254740992.0


@jit
def _hashed(value: np.uint64, constant: np.uint64, factor: np.uint64) -> tuple[np.uint64, np.uint64]:
    value ^= constant
    constant = (constant * factor) & LOW
    value = (value * constant) & LOW
    return value ^ (value >> SHIFT), constant


@jit
def _mixed(left: np.uint64, right: np.uint64) -> np.uint64:
    value = (MIX_LEFT * left - MIX_RIGHT * right) & LOW
    return value ^ (value >> SHIFT)


@jit
def _stepped(high: np.uint64, low: np.uint64, inc_high: np.uint64, inc_low: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Position times multiplier plus increment, modulo 2^128."""
    lower, upper = low & LOW, low >> HALF
    first, second = lower * MULT_LOW_UPPER, upper * MULT_LOW_LOWER
    middle = ((lower * MULT_LOW_LOWER) >> HALF) + (first & LOW) + (second & LOW)
    carried = upper * MULT_LOW_UPPER + (first >> HALF) + (second >> HALF) + (middle >> HALF)
    new_low = low * MULT_LOW + inc_low
    new_high = carried + high * MULT_LOW + low * MULT_HIGH + inc_high
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
        entropy[: len(seed)] = seed
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
    for cell in range(len(states)):
        high, low, inc_high, inc_low = states[cell, 0], states[cell, 1], states[cell, 2], states[cell, 3]
        row = found[cell]
        for i in range(len(row)):
            high, low = _stepped(high, low, inc_high, inc_low)
            value, turn = high ^ low, high >> ROTATION
            value = (value >> turn) | (value << ((np.uint64(64) - turn) & DIGITS))
            row[i] = np.float64(value >> DOUBLE) * UNIT
        states[cell, 0], states[cell, 1] = high, low


SIGNATURES = {
    seed_states: ["void(uint64[::1], uint64[::1], uint64[:, ::1])"],
    fill_uniforms: ["void(uint64[:, ::1], float64[:, ::1])"],
}
