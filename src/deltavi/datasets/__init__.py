"""Datasets: a public experiment, and simulated ones with known truth."""

from deltavi.datasets._kang import kang
from deltavi.datasets._screen import simulate_screen
from deltavi.datasets._simulate import simulate_perturbation

__all__ = ["kang", "simulate_perturbation", "simulate_screen"]
