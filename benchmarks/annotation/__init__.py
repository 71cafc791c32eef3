"""Annotation of cell types beside other methods."""
