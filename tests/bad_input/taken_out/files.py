"""Checks of what removes and replaces files."""

from __future__ import annotations

from tests.bad_input.mutated import OwnTest

MUTATIONS: tuple[OwnTest, ...] = ()
