"""Checks of keywords, splits and what training is asked for."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

MUTATIONS: tuple[OwnTest, ...] = ()
