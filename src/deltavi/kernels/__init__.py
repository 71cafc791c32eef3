"""Loops compiled by numba. Where it is missing or switched off, NumPy and torch compute the same."""

from deltavi.kernels.compiled import compiled, jit, kernels, part

__all__ = ["compiled", "jit", "kernels", "part"]
