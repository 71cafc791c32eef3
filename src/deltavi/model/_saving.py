"""Checks before a model is saved: the folder, the keywords, the cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from anndata import AnnData

from deltavi._entries import keywords_of, known_keywords
from deltavi._errors import DeltaviError, ModelFileError, UnknownArgumentError, examples
from deltavi._types import State
from deltavi.io import require_replaceable, resolved, write_cells
from deltavi.registry.writable import writable_cells

SAVE_ARGUMENTS = ("dir_path", "overwrite", "save_anndata")
# keywords of scvi-tools' models that mean nothing here
HINTS_OF_SAVE = {
    "prefix": "Each model has a folder of its own: save it to another one.",
    "legacy_mudata_format": "Models here are set up with an AnnData.",
    "datamodule": "Models here are set up with an AnnData.",
}
WRITE_ARGUMENTS = [name for name in keywords_of(write_cells) if name not in ("part", "cells")]


def require_save_keywords(given: Iterable[str], *, save_anndata: bool) -> None:
    """Raise for keywords that neither ``save`` nor, with `save_anndata`, ``AnnData.write_h5ad`` has."""
    names = list(given)
    known_keywords(names, [*SAVE_ARGUMENTS, *WRITE_ARGUMENTS], among="save", hints=HINTS_OF_SAVE)
    if names and not save_anndata:
        raise UnknownArgumentError(f"{examples(names)} says how to write the cells: pass save_anndata=True with it.")


def require_free(dir_path: Any, *, overwrite: bool) -> Path:
    """Folder that a model is saved to, which must be new unless `overwrite` is set.

    Raises
    ------
    ModelFileError
        If it is there and may not be written to.
    ModelWriteError
        If it cannot be.
    """
    target = resolved(dir_path, "dir_path", error=ModelFileError)
    if not overwrite and (target.exists() or target.is_symlink()):
        raise ModelFileError(
            f"{target} exists; pass overwrite=True to save to it: a model that is there is replaced, and other files "
            "in it stay."
        )
    require_replaceable(target)
    return target


def cells_writer(cells: AnnData | None, write_kwargs: State) -> Callable[[Path], None]:
    """Write `cells` to the file it is given; the AnnData itself stays on the file that it may be backed by."""
    if cells is None:
        raise DeltaviError("The model was loaded without data: there are no cells to save with it.")

    def write(part: Path) -> None:
        try:
            write_cells(part, writable_cells(cells), **write_kwargs)
        except OSError:
            raise
        except Exception as error:
            raise DeltaviError(
                f"The AnnData cannot be written ({error}), and nothing was saved. Leave out save_anndata, or mend that."
            ) from error

    return write
