"""Tools: whole analyses in one call."""

from deltavi.tl._held_out import HeldOut, predict_held_out

__all__ = ["HeldOut", "predict_held_out"]
