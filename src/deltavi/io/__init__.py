"""Safe model files, and one place for all that is written to disk."""

from deltavi.io._blocks import BlockFile
from deltavi.io._cells import write_cells
from deltavi.io._folder import require_replaceable
from deltavi.io._format import encode, read_model, saved_cells, write_model
from deltavi.io._kept import keep_blocks, kept_blocks
from deltavi.io._manifest import FORMAT_VERSION
from deltavi.io._place import (
    PathLike,
    require_file,
    require_folder,
    require_writable,
    resolved,
    scratch_folder,
)
from deltavi.io._stores import require_store, write_store
from deltavi.io.atomic import description_of, filled_folder, write_file, write_files, write_synced

__all__ = [
    "FORMAT_VERSION",
    "BlockFile",
    "PathLike",
    "description_of",
    "encode",
    "filled_folder",
    "keep_blocks",
    "kept_blocks",
    "read_model",
    "require_file",
    "require_folder",
    "require_replaceable",
    "require_store",
    "require_writable",
    "resolved",
    "saved_cells",
    "scratch_folder",
    "write_cells",
    "write_file",
    "write_files",
    "write_model",
    "write_store",
    "write_synced",
]
