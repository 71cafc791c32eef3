"""Registry of a data module, of which models of this package are made with the cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from anndata import AnnData
from lightning.pytorch import LightningDataModule

from deltavi._errors import DeltaviError
from deltavi._types import State

if TYPE_CHECKING:
    from deltavi.dataloaders._module import CellsDataModule


# Arguments that all models take first.
FIRST = ("adata", "registry")


class Made(Protocol):
    """Model whose class registers cells."""

    @classmethod
    def setup_anndata(cls, adata: AnnData, **columns: Any) -> None:
        """Register `adata`."""


class CellsRegistry(State):
    """Registry that knows its data module; copies, and what is written to a file, are plain dictionaries.

    Parameters
    ----------
    module
        The data module.
    entries
        Entries of the registry.
    """

    def __init__(self, module: CellsDataModule, entries: State) -> None:
        super().__init__(entries)
        self.module = module

    def __reduce__(self) -> tuple[type[State], tuple[State]]:
        return dict, (dict(self),)

    def cells_for(self, model_class: type[Made]) -> AnnData:
        """Cells of the module, registered with a class of models.

        Raises
        ------
        DeltaviError
            If the module was made of another number of cells, or the class cannot use one of its columns.
        """
        module = self.module
        if module.adata.n_obs != module.n_obs:
            raise DeltaviError(
                f"The data module was made of {module.n_obs} cells, and its AnnData has {module.adata.n_obs} by now: "
                "make it anew."
            )
        model_class.setup_anndata(module.adata, **module.columns.given())
        return module.adata


def with_cells(init: Callable[..., None]) -> Callable[..., None]:
    """Constructor of a model that takes the cells of a data module in place of its registry.

    Parameters
    ----------
    init
        Constructor, whose first arguments are ``adata`` and ``registry``.
    """

    @wraps(init)
    def made(self: Made, *args: object, **kwargs: object) -> None:
        adata, registry = (kwargs.get(name, args[i] if len(args) > i else None) for i, name in enumerate(FIRST))
        if isinstance(adata, LightningDataModule | CellsRegistry) or isinstance(registry, LightningDataModule):
            raise DeltaviError(f"{type(self).__name__} takes registry=datamodule.registry, or adata.")
        if not isinstance(registry, CellsRegistry):
            return init(self, *args, **kwargs)
        if adata is not None:
            raise DeltaviError("registry=datamodule.registry brings its cells: pass adata or registry.")
        options = {name: value for name, value in kwargs.items() if name not in FIRST}
        return init(self, registry.cells_for(type(self)), None, *args[2:], **options)

    return made
