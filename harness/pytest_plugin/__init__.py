"""One run under pytest: each law of each candidate is a test item."""
