"""Modules: a latent structure joined to the decoder, in scvi-tools' BaseModuleClass form."""

from deltavi.module._actinn import ACTINN
from deltavi.module._labelvi import LABELVI
from deltavi.module._mixvi import MIXVI
from deltavi.module._vae import VAE

__all__ = ["ACTINN", "LABELVI", "MIXVI", "VAE"]
