"""Whole libraries of models at once."""
