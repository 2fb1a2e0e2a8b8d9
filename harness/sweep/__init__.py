"""Whole model libraries at once: which classes there are, each judged in some process, and what became of it kept."""
