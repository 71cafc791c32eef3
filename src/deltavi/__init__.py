"""deltavi: predicting what single cells become."""

__version__ = "0.1.0"
