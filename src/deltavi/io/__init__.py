"""Safe model files."""

from deltavi.io._format import FORMAT_VERSION, encode, read_model, require_replaceable, write_model

__all__ = ["FORMAT_VERSION", "encode", "read_model", "require_replaceable", "write_model"]
