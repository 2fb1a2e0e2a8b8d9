"""Build tiny models of a library's classes by rules. Part of the child's side."""
