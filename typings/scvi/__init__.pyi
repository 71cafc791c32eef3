"""Types of what this package uses of scvi-tools, which ships none; true of 1.4.2 and of 1.5."""

from typing import Final

from scvi._constants import _REGISTRY_KEYS_NT
from scvi._settings import ScviConfig

REGISTRY_KEYS: Final[_REGISTRY_KEYS_NT]
settings: Final[ScviConfig]
__version__: str
