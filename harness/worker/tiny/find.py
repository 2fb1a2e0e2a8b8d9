"""Find the classes of an installed model library with an autoregressive language-model loss, by their source."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass

_FORMER = ("modeling_tf_", "modeling_flax_")
"""The prefixes of files whose classes are of another framework."""

_LABELS = frozenset({"labels", "text_labels"})
"""The names of labels of text."""

_NAMES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
"""The suffixes of class names that stand for a language model's head, by the library's conventions."""


@dataclass(frozen=True, slots=True)
class _Class:
    """The facts about one class in the source."""

    name: str
    bases: tuple[str, ...]
    arguments: tuple[str, ...] | None
    """The arguments of its own `forward`. None if it inherits `forward`."""

    aligns_by_itself: bool
    """Whether its own `forward` takes labels and calls a loss that finds the alignment, like CTC."""

    is_offered: bool
    """Whether its module offers it: it is in `__all__`, and is not only an `__init__` that warns of a deprecated
    name."""


def language_models(package: str = "transformers") -> list[str]:
    """The targets "package:Class" of every class that takes `labels` for an autoregressive language-model loss.

    The rule reads the source of `package.models.*.modeling_*`. So a module with a missing dependency is listed too, and
    fails when it is built. A class belongs if

    - its `forward`, own or inherited, takes `labels`, or `text_labels` beside those of its audio;
    - it can generate (it derives from `GenerationMixin`), or its name has the suffix of a language model;
    - its loss does not find the alignment itself, as CTC does, which sums over all alignments;
    - it is offered: it is in the module's `__all__`, which excludes bases, and is not a class under a deprecated name.
      Modules of transformers before 4.48 have no `__all__`. There the `__init__.py` beside a module names what is
      offered.

    Masked language models and classifiers cannot generate, so they do not belong.

    Raises:
        ModuleNotFoundError: there is no such package, or it has no folder `models`.
    """
    classes = {found.name: found for found in _classes(_models_folder(package))}
    return [f"{package}:{name}" for name in sorted(classes) if _is_language_model(name, classes)]


def _models_folder(package: str) -> str:
    spec = importlib.util.find_spec(package)
    folders = [os.path.join(each, "models") for each in (spec and spec.submodule_search_locations) or ()]
    for folder in folders:
        if os.path.isdir(folder):
            return folder
    raise ModuleNotFoundError(f"{package!r} is no package with a folder of models", name=package)


def _classes(folder: str) -> Iterator[_Class]:
    for where, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if file.startswith("modeling_") and file.endswith(".py") and not file.startswith(_FORMER):
                with open(os.path.join(where, file), encoding="utf-8") as source:
                    body = ast.parse(source.read()).body
                offered = _offered(body)
                if offered is None:
                    offered = _named_in(os.path.join(where, "__init__.py"))
                yield from (_read(node, node.name in offered) for node in body if isinstance(node, ast.ClassDef))


def _offered(body: list[ast.stmt]) -> set[str] | None:
    """The names in a module's `__all__`, or None if it has none."""
    lists = [
        node.value
        for node in body
        if isinstance(node, (ast.Assign, ast.AugAssign))
        for to in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(to, ast.Name) and to.id == "__all__"
    ]
    return set().union(*map(_texts, lists)) if lists else None


def _named_in(init: str) -> set[str]:
    """The strings in a package's `__init__.py`, which lists what it imports when it is asked for."""
    try:
        with open(init, encoding="utf-8") as source:
            return _texts(ast.parse(source.read()))
    except OSError:
        return set()


def _texts(tree: ast.AST) -> set[str]:
    return {str(each.value) for each in ast.walk(tree) if isinstance(each, ast.Constant)}


def _read(node: ast.ClassDef, is_offered: bool) -> _Class:
    methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    forward = methods.get("forward")
    arguments = None if forward is None else tuple(a.arg for a in [*forward.args.args, *forward.args.kwonlyargs])
    only_warns = set(methods) == {"__init__"} and "warn" in _names(methods["__init__"])
    return _Class(
        name=node.name,
        bases=tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases),
        arguments=arguments,
        aligns_by_itself=forward is not None and "labels" in (arguments or ()) and "ctc_loss" in _names(forward),
        is_offered=is_offered and not only_warns,
    )


def _names(tree: ast.AST) -> set[str]:
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute))
    }


def _is_language_model(name: str, classes: dict[str, _Class]) -> bool:
    line = _ancestry(name, classes, [])
    forward = next((classes[each] for each in line if each in classes and classes[each].arguments is not None), None)
    return (
        classes[name].is_offered
        and forward is not None
        and not _LABELS.isdisjoint(forward.arguments or ())
        and not forward.aligns_by_itself
        and ("GenerationMixin" in line or name.endswith(_NAMES))
    )


def _ancestry(name: str, classes: dict[str, _Class], line: list[str]) -> list[str]:
    """`name` and all its ancestors, nearest first. The library's names are unique, so a name is enough."""
    if name not in line:
        line.append(name)
        for base in classes[name].bases if name in classes else ():
            _ancestry(base, classes, line)
    return line
