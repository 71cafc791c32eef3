"""Folders of exported models: ``model.pt`` and ``adata.h5ad`` are replaced together, or neither is.

The names are those that scvi-tools reads, so that no manifest can choose between old and new files. Cells are taken
away first and put in place last: a process killed in between leaves a model without cells, never with those of another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from deltavi._compat import SAVE_KEYS
from deltavi._errors import ModelFileError, ModelWriteError
from deltavi.io._place import PathLike, made, require_folder, require_writable, resolved, scratch_folder
from deltavi.io.atomic import is_as_described, not_written, sync_file, sync_folder
from deltavi.io.scvi import read_scvi

MODEL, CELLS = SAVE_KEYS.MODEL_FNAME, SAVE_KEYS.ADATA_FNAME


def require_exportable(folder: PathLike, *, overwrite: bool, with_cells: bool) -> Path:
    """Folder to export to.

    Raises
    ------
    ModelFileError
        If it exists and `overwrite` is not set, or has a file that would be replaced and was not exported.
    ModelWriteError
        If it cannot be written.
    """
    target = resolved(folder, "dir_path", error=ModelFileError)
    if not overwrite and (target.exists() or target.is_symlink()):
        raise ModelFileError(f"{target} exists; pass overwrite=True to replace an exported model in it.")
    require_folder(target, error=ModelFileError)
    own = _own(target)
    for name in (MODEL, CELLS) if with_cells else (MODEL,):
        if os.path.lexists(target / name) and name not in own:
            raise ModelFileError(
                f"{target / name} was not written by export_scvi, or was changed since, and would be replaced: name "
                "another folder, or move it away. Nothing was changed."
            )
    try:
        require_writable(target)
    except OSError as error:
        raise not_written(ModelWriteError, "The model", target, error) from error
    return target


def write_export(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder whose files take the place of those exported to `target` before; others stay.

    Raises
    ------
    ModelWriteError
        If the disk is full or the folder read-only.
    """
    is_new = False
    try:
        with made(target), scratch_folder(target / f".export-{uuid4().hex[:12]}") as scratch:
            write(scratch)
            for name in (MODEL, CELLS):
                if (scratch / name).exists():
                    sync_file(scratch / name)
            _switch(target, scratch, _own(target))
            is_new = True
            sync_folder(target)
    except OSError as error:
        raise not_written(ModelWriteError, "The model", target, error, new=[target] if is_new else []) from error


def _own(folder: Path) -> list[str]:
    """Names of the files in `folder` that were exported to it and are as they were."""
    try:
        found = read_scvi(folder)
    except ModelFileError:
        return []
    if not found.is_export or found.mark is None:
        return []
    return [MODEL, *([CELLS] if is_as_described(folder / CELLS, found.mark.get("cells")) else [])]


def _switch(target: Path, scratch: Path, own: list[str]) -> None:
    """Move the files of `scratch` to `target` in place of its `own`; where that fails, put these back."""
    model, cells = target / MODEL, target / CELLS
    former_model, former_cells = scratch / "former.pt", scratch / "former.h5ad"
    has_cells = (scratch / CELLS).exists()
    if MODEL in own:
        shutil.copy2(model, former_model)
    try:
        if CELLS in own:
            os.replace(cells, former_cells)
        if MODEL not in own:
            _require_absent(model)
        os.replace(scratch / MODEL, model)
        if has_cells:
            _require_absent(cells)
            os.replace(scratch / CELLS, cells)
    except BaseException:
        if has_cells and not (scratch / CELLS).exists():
            cells.unlink()
        if not (scratch / MODEL).exists():
            os.replace(former_model, model) if MODEL in own else model.unlink()
        if former_cells.exists():
            os.replace(former_cells, cells)
        raise


def _require_absent(path: Path) -> None:
    """Raise if another process has made the file since it was last checked."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path.name} is not of this package")
