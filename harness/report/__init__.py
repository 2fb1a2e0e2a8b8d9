"""The reports of a run: one stream of events, and one file per format. Nothing here imports torch."""
