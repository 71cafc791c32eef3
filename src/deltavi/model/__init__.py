"""Models: what users touch."""

from deltavi.model._actinn import ACTINN
from deltavi.model._labelvi import LABELVI
from deltavi.model._mixvi import MIXVI
from deltavi.model._ppca import PPCA
from deltavi.model._scgen import SCGEN
from deltavi.model._vae import VAE

__all__ = ["ACTINN", "LABELVI", "MIXVI", "PPCA", "SCGEN", "VAE"]
