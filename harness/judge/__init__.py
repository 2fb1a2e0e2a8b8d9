"""From options to a verdict: the plan, the asking of laws, coverage, and stored cases."""
