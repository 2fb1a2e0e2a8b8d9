"""The name of a bug, and the spec that a candidate computes."""
