"""What is right: the losses themselves, in float64, written to be read. Imports nothing of the harness."""
