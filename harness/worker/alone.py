"""Is a file of a package the same without its package?"""

from __future__ import annotations

import ast


def stands_alone(file: str, dotted: str) -> bool:
    """Whether a file, the module ``dotted``, asks nothing of its own package.

    One that does can go on without: ``try: from .kernels import loss``, ``except ImportError:``, and a loss that nobody
    trains with would be judged in its place.
    """
    package = dotted.partition(".")[0]
    if file.endswith("__init__.py"):
        return False
    with open(file, "rb") as source:
        try:
            tree = ast.parse(source.read())
        except (SyntaxError, ValueError):
            return False
    return not any(_asks_for(package, node) for node in ast.walk(tree))


def _asks_for(package: str, node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or _is_in(package, node.module)
    if isinstance(node, ast.Import):
        return any(_is_in(package, alias.name) for alias in node.names)
    if isinstance(node, ast.Name):
        return node.id in ("__package__", "__path__", "__spec__")
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{package}.")


def _is_in(package: str, name: str | None) -> bool:
    return name is not None and name.partition(".")[0] == package
