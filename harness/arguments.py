"""The arguments that a candidate may ask for, by name, and what a case gives for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from shiftproof.reference.spec import Layout

from .cases import Case
from .spelling import nearest

Scalar = int | float | str | bool | None


@dataclass(frozen=True)
class Argument:
    """One argument: what it is, in words, and how a case gives it. None means that this case does not have it."""

    name: str
    meaning: str
    give: Callable[[Case], Tensor | Scalar]


def _tensor(name: str) -> Callable[[Case], Tensor | Scalar]:
    def give(case: Case) -> Tensor | Scalar:
        value = getattr(case.batch, name)
        assert value is None or isinstance(value, Tensor)
        if value is None or case.spec.layout is Layout.BATCHED or value.dim() < 2:
            return value
        return value.flatten(0, 1)

    return give


ARGUMENTS: dict[str, Argument] = {
    argument.name: argument
    for argument in (
        Argument("logits", "[B, S, V] (or [B·S, V] under a flat spec), floating", _tensor("logits")),
        Argument("labels", "[B, S], int64, ignore_index where ignored", _tensor("labels")),
        Argument("shift_labels", "[B, S], the labels already shifted by the caller, or None", _tensor("shift_labels")),
        Argument("loss_mask", "[B, S], bool, aligned with the labels: true where trained on", _tensor("loss_mask")),
        Argument("token_weights", "[B, S], float32, aligned with the labels", _tensor("token_weights")),
        Argument("position_ids", "[B, S], int64, from 0 in each packed document", _tensor("position_ids")),
        Argument("segment_ids", "[B, S], int64, one id a packed document, 0 for padding", _tensor("segment_ids")),
        Argument("cu_seqlens", "[documents + 1], int32, over the flattened B·S tokens", _tensor("cu_seqlens")),
        Argument("input_ids", "[B, S], int64, the tokens before any label was ignored", _tensor("input_ids")),
        Argument("attention_mask", "[B, S], int64, 0 at padding", _tensor("attention_mask")),
        Argument(
            "num_items_in_batch",
            "int, the caller's count of trained tokens, or None",
            lambda c: c.batch.num_items_in_batch,
        ),
        Argument("vocab_size", "int, V", lambda c: c.recipe.classes),
        Argument("ignore_index", "int, the label that is never trained on", lambda c: c.spec.terms[0].ignore_index),
        Argument("reduction", "str, mean, sum or none", lambda c: str(c.spec.terms[0].reduction)),
        Argument("pad_token_id", "int, the id that stands at padding in input_ids", lambda c: c.batch.pad_token_id),
        Argument(
            "eos_token_id", "int, an id that ends documents and is a legal target", lambda c: c.batch.eos_token_id
        ),
    )
}

# Names under which well-known functions ask for the same thing.
ALIASES = {"input": "logits", "target": "labels", "targets": "labels"}


class UnknownArgument(ValueError):
    """A candidate requires an argument that no case has. The message names the nearest that one has."""


@dataclass(frozen=True)
class Binding:
    """Which of our arguments a candidate asks for: our name -> its name, in its own order."""

    names: Mapping[str, str]
    required: frozenset[str]

    def takes(self, name: str) -> bool:
        return name in self.names


def bind(
    target: str, parameters: list[tuple[str, bool]], rename: Mapping[str, str], accepts_any_keyword: bool = False
) -> Binding:
    """Match a candidate's ``parameters`` (name, required) with ours; ``rename`` maps our names to its names.

    Raises:
        UnknownArgument: for a required parameter that is none of ours, or a rename of or to a name that is not there.
    """
    theirs = {name for name, _ in parameters}
    for ours, their in rename.items():
        if ours not in ARGUMENTS:
            raise UnknownArgument(f"rename of {ours!r}: shiftproof has no such argument{nearest(ours, ARGUMENTS)}")
        if their not in theirs and not accepts_any_keyword:
            raise UnknownArgument(f"rename {ours} = {their!r}: {target} has no such parameter{nearest(their, theirs)}")
    if len(set(rename.values())) < len(rename):
        raise UnknownArgument(f"rename maps two arguments to one parameter of {target}; give each its own")
    back = {their: ours for ours, their in rename.items()}
    names: dict[str, str] = {}
    required = set()
    for name, needed in parameters:
        ours = back.get(name) or (name if name in ARGUMENTS else ALIASES.get(name, ""))
        renamed_away = ours in rename and rename[ours] != name
        shadowed = name not in back and ours != name and ours in theirs  # an alias beside the name itself
        if not ours or renamed_away or shadowed:
            if needed:
                raise UnknownArgument(
                    f"{target} requires {name!r}, which is no argument of shiftproof's{nearest(name, ARGUMENTS)}; "
                    f"`shiftproof list arguments` shows all, and rename = {{ logits = {name!r} }} maps one to it"
                )
            continue
        names[ours] = name
        if needed:
            required.add(ours)
    for ours, their in rename.items():
        names.setdefault(ours, their)
    if not {"logits", "labels"} & set(names):
        raise UnknownArgument(
            f"{target} asks for neither logits nor labels (its parameters: {', '.join(sorted(theirs)) or 'none'}); "
            'rename = { logits = "…", labels = "…" } says which are which'
        )
    return Binding(names, frozenset(required))


def values_for(case: Case, binding: Binding) -> tuple[dict[str, Tensor], dict[str, Scalar]]:
    """The tensors and the scalars of one case, under the candidate's own names.

    An argument that this case does not have is left out, so that the candidate's default holds; if the candidate
    requires it, it is given as None.
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Scalar] = {}
    for ours, theirs in binding.names.items():
        value = ARGUMENTS[ours].give(case)
        if isinstance(value, Tensor):
            tensors[theirs] = value
        elif value is not None or ours in binding.required:
            scalars[theirs] = value
    return tensors, scalars
