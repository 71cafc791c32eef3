"""Registry of a data module, of which models of this package are made with the cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from anndata import AnnData
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from deltavi._compat import FIELD_REGISTRIES_KEY, SETUP_METHOD_KEY, STATE_REGISTRY_KEY
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


@dataclass(frozen=True)
class Awaited:
    """Constructor of a model that waits for cells: the registry it was given says of them what it needs for none.

    Parameters
    ----------
    init
        The constructor.
    args, options
        Its arguments, without AnnData and registry.
    n_genes
        Number of genes in the registry.
    """

    init: Callable[..., None]
    args: tuple[object, ...]
    options: State
    n_genes: int | None

    def make(self, model: Made, registry: CellsRegistry) -> None:
        """Make the model of the cells that a data module brings.

        Raises
        ------
        DeltaviError
            If it has another number of genes than the registry.
        """
        if self.n_genes not in (None, registry.module.n_vars):
            raise DeltaviError(
                f"The model was made of the registry of {self.n_genes} genes, and datamodule has "
                f"{registry.module.n_vars}: make it of datamodule.registry."
            )
        cells = registry.cells_for(type(model))
        del vars(model)[AWAITED]
        try:
            self.init(model, cells, None, *self.args, **self.options)
        except BaseException:
            vars(model).clear()
            vars(model)[AWAITED] = self
            raise


# Attribute of a model that has no cells yet.
AWAITED = "_awaited"


def awaited(model: object) -> Awaited | None:
    """Constructor that a model waits with; ``None`` of one that is made."""
    found: Awaited | None = vars(model).get(AWAITED)
    return found


def require_made(model: object, name: str) -> None:
    """Raise where an attribute is asked of a model without cells; of any other object does nothing."""
    if AWAITED in vars(model) and not name.startswith("__"):
        raise DeltaviError(
            f"This {type(model).__name__} was made of the registry of a data module, which does not hold the cells: "
            "they come with train(datamodule=...). A model of CellsDataModule.from_annbatch(datamodule).registry has "
            "them at once."
        )


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
        if not isinstance(registry, CellsRegistry) and not (adata is None and _is_of_module(registry)):
            return init(self, *args, **kwargs)
        if adata is not None:
            raise DeltaviError("registry=datamodule.registry brings its cells: pass adata or registry.")
        options = {name: value for name, value in kwargs.items() if name not in FIRST}
        if isinstance(registry, CellsRegistry):
            return init(self, registry.cells_for(type(self)), None, *args[2:], **options)
        vars(self)[AWAITED] = Awaited(made, args[2:], options, _n_genes(registry))
        return None

    return made


def _is_of_module(registry: object) -> bool:
    """True of the registry of a data module of scvi-tools."""
    return isinstance(registry, dict) and registry.get(SETUP_METHOD_KEY) == "setup_datamodule"


def _n_genes(registry: object) -> int | None:
    """Number of genes in a registry, if it says."""
    fields = registry.get(FIELD_REGISTRIES_KEY, {}) if isinstance(registry, dict) else {}
    found: int | None = fields.get(REGISTRY_KEYS.X_KEY, {}).get(STATE_REGISTRY_KEY, {}).get("n_vars")
    return found
