"""Checks of what is accepted and must be savable, and degenerate scales."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

MUTATIONS: tuple[OwnTest, ...] = ()
