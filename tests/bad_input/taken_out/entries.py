"""Checks of numbers, masks, devices and objects at an entry."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

MUTATIONS: tuple[OwnTest, ...] = ()
