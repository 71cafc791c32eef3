"""Shared tests of models: a model that is added gets them by one entry."""
