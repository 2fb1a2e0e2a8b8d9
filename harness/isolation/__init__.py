"""The parent's side of the process in which a candidate runs. The child's side is ``worker/``."""
