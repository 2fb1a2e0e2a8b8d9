"""When two numbers count as equal: bounds derived from dtypes, sizes and magnitudes."""
