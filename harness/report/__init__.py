"""What is told of a run: one stream of events, one file a format. Nothing here knows of torch."""
