"""Sweeps over whole model libraries: list the classes, judge each one in some process, and store the results."""
