"""The proof that the judge finds bugs: it judges every mutant, and counts the cases until the mutant fails."""
