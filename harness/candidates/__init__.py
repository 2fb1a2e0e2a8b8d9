"""The candidates: declarations, arguments, and one class for each kind (loss, model, trainer)."""
