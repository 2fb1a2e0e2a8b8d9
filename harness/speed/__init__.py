"""How fast a loss is, beside another one and beside what the machine can do: judged like correctness."""
