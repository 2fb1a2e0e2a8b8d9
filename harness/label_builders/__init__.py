"""Label builders, from their cases to the name of their bug: all of what is not as for losses."""
