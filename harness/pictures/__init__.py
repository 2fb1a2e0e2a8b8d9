"""Pairings, drawn as text."""
