"""The command ``shiftproof``."""
