"""Helpers of scvi-tools that read the registry of a saved model, for folders that this package writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from deltavi._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY
from deltavi._errors import ModelFileError
from deltavi._reading import known_arguments
from deltavi._types import State
from deltavi.io import read_model

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Names that scvi-tools' methods of files take and that have no place here.
HINTS = {
    "allowed_classes_names_list": "A model is loaded with its own class.",
    "backup_url": "Fetch the folder first, and pass its path.",
    "datamodule": "Pass the cells as adata.",
    "map_location": "Pass device.",
    "use_gpu": "Pass device='cuda' or 'cpu'.",
    "prefix": "Each model has a folder of its own: pass its path.",
}


@known_arguments
def load_registry(dir_path: str | os.PathLike[str]) -> State:
    """Return the registry of a saved model: what was registered, with which arguments.

    Parameters
    ----------
    dir_path
        Folder that :meth:`save` wrote.

    Raises
    ------
    ModelFileError
        If the folder holds no model, or is damaged.
    """
    return dict(read_model(dir_path)[1]["registry"])


@known_arguments
def view_setup_args(dir_path: str | os.PathLike[str]) -> None:
    """Print the arguments of ``setup_anndata`` that a saved model was made with.

    Parameters
    ----------
    dir_path
        Folder that :meth:`save` wrote.

    Raises
    ------
    ModelFileError
        If the folder holds no model, or is damaged.
    """
    registry = load_registry(dir_path)
    given = {name: value for name, value in registry[SETUP_ARGS_KEY].items() if value is not None}
    print(f"{registry.get(MODEL_NAME_KEY)}.setup_anndata(adata, {_as_arguments(given)})")


def convert_legacy_save(cls: type[CountModel], *args: Any, **kwargs: Any) -> NoReturn:
    """Refuse: models of this package were never saved in that format.

    Parameters
    ----------
    *args, **kwargs
        As in scvi-tools.

    Raises
    ------
    ModelFileError
        Always.
    """
    raise ModelFileError(
        f"{cls.__name__} has no old format of scvi-tools to convert: load reads models of every version of "
        "deltavi, and import_scvi those of scvi-tools."
    )


def _as_arguments(given: State) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())
