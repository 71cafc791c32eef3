"""Checks of data that changed since they were set up."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

MUTATIONS: tuple[OwnTest, ...] = ()
