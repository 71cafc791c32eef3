"""Held-out responses to a perturbation."""
