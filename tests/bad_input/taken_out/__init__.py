"""Checks to take out that have tests of their own, a file for each kind."""
