"""Models: what users touch."""

from deltavi.model._scgen import SCGEN
from deltavi.model._vae import VAE

__all__ = ["SCGEN", "VAE"]
