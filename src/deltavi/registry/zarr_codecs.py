"""Faster decoding of arrays in Zarr by the package zarrs, where it is installed."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import zarr

PACKAGE, PIPELINE = "zarrs", "zarrs.ZarrsCodecPipeline"
# Stores on the disk; zarrs reads no others.
STORES = ("LocalStore",)
# The setting belongs to all threads: two at once would restore each other's.
_setting = threading.Lock()


@contextmanager
def fast_codecs(x: object) -> Iterator[None]:
    """Let arrays that are opened in the block be decoded by zarrs, if it is there and reads the store of `x`.

    An array keeps the way it is decoded from when it is opened on; the setting of Zarr is that of before afterwards.

    Parameters
    ----------
    x
        Group of Zarr, or of another kind, for which nothing is set.
    """
    if type(getattr(x, "store", None)).__name__ not in STORES or importlib.util.find_spec(PACKAGE) is None:
        yield
        return
    with _setting, zarr.config.set({"codec_pipeline.path": PIPELINE}):
        yield
