"""Registry: checked fields of AnnData, queries aligned with them, and the mini-batches read from them."""
