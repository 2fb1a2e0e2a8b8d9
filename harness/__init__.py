"""The judge: draws cases, runs a candidate on them, and says whether it computes what its spec promises."""
