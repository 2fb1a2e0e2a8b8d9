"""The right answers: the losses in float64, written to be read. Imports nothing of the harness."""
