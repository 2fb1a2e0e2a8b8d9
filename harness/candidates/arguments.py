"""The arguments that a candidate may take, by name, and the value that a case of a loss gives for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import einops
from torch import Tensor

from shiftproof.reference.spec import (
    LABELS,
    LOGITS,
    Denominator,
    Documents,
    Extra,
    Heads,
    LossSpec,
    Reduction,
    Score,
    ShiftedBy,
)

from ..cases.build import Case, classes_of
from ..cases.linear import BIAS, HIDDEN, LEAVES, WEIGHT, Linear, factor, no_linear
from ..suggest import nearest
from ..worker.protocol import Scalar

Give = Callable[[Case, "Binding"], Tensor | Scalar]


@dataclass(frozen=True)
class Argument:
    """One argument: its name, its meaning in words, and a function that gives its value in a case.

    ``give`` takes the case and the candidate's binding. It returns None if this case does not have the argument.
    """

    name: str
    meaning: str
    give: Give


def _tensor(name: str) -> Give:
    def give(case: Case, binding: Binding) -> Tensor | Scalar:
        value = getattr(case.batch, name)
        assert value is None or isinstance(value, Tensor)
        return value if value is None else lay_out(case.spec, name, value)

    return give


def lay_out(spec: LossSpec, name: str, value: Tensor) -> Tensor:
    """Return a tensor of a batch in the layout that ``spec`` gives to candidates."""
    if name in (*spec.logits, *spec.labels):
        return _rearrange(value, spec.axes_of(name), spec.layout_of(name))
    if value.dim() >= 2 and name not in LOGITS + LABELS:  # it has the layout of its labels
        labels = "audio_labels" if name == "audio_input_ids" and "audio_labels" in spec.labels else "labels"
        pattern = spec.layout_of(labels)
        if value.dim() < len(spec.axes_of(labels).split()):  # and has no codebooks
            return _rearrange(value, "b s", "(b s)") if "(b s)" in pattern else value
        return _rearrange(value, spec.axes_of(labels), pattern)
    return value


def lay_back(spec: LossSpec, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Invert :func:`lay_out` for a gradient. ``shape`` is the shape of the batch's tensor."""
    axes = spec.axes_of(name)
    sizes = dict(zip(axes.split(), shape, strict=True))
    if spec.layout_of(name) == axes:
        return value.reshape(shape)
    found: Tensor = einops.rearrange(value, f"{spec.layout_of(name)} -> {axes}", **sizes)
    return found


def _rearrange(value: Tensor, axes: str, pattern: str) -> Tensor:
    if pattern == axes:
        return value
    laid_out: Tensor = einops.rearrange(value, f"{axes} -> {pattern}").contiguous()
    return laid_out


def _constant(name: str) -> Give:
    """A field of the first term's score. None if it has no effect, so that the candidate uses its default."""

    def give(case: Case, binding: Binding) -> Tensor | Scalar:
        value: Scalar = getattr(case.spec.terms[0].score, name)
        return None if value == getattr(Score(), name) else value

    return give


ARGUMENTS: dict[str, Argument] = {
    argument.name: argument
    for argument in (
        Argument(
            "logits",
            "[B, S, V] or [B, S, K, V], or in the layout of the spec ([B·S, V], [B, K, S, V], …), floating",
            _tensor("logits"),
        ),
        Argument(
            "labels",
            "[B, S] or [B, S, K], or in the layout of the spec, int64, ignore_index if ignored",
            _tensor("labels"),
        ),
        Argument(
            "hidden_states",
            "[B, S, H], or flat if the spec's logits are flat, floating: with lm_head_weight, in place of logits",
            lambda c, binding: lay_out(c.spec, "logits", linear_of(c, binding).hidden),
        ),
        Argument(
            "lm_head_weight",
            "[V, H], floating: hidden_states · lm_head_weightᵀ + lm_head_bias are the logits",
            lambda c, binding: linear_of(c, binding).weight,
        ),
        Argument("lm_head_bias", "[V], floating", lambda c, binding: linear_of(c, binding).bias),
        Argument("shift_labels", "[B, S], the labels already shifted by the caller, or None", _tensor("shift_labels")),
        Argument("audio_logits", "[A, T, K, V], or in the layout of the spec, floating", _tensor("audio_logits")),
        Argument("audio_labels", "[A, T, K], or in the layout of the spec, int64", _tensor("audio_labels")),
        Argument(
            "depth_logits",
            "[B·S, K−1, V], floating: head j predicts codebook j+1 of the same frame",
            _tensor("depth_logits"),
        ),
        Argument("mtp_logits", "[D, B, S, V], floating: head d predicts d tokens further ahead", _tensor("mtp_logits")),
        Argument("loss_mask", "[B, S], bool, aligned with the labels: true if trained on", _tensor("loss_mask")),
        Argument("token_weights", "[B, S], float32, aligned with the labels", _tensor("token_weights")),
        Argument("codebook_weights", "[K], float32, one per codebook", _tensor("codebook_weights")),
        Argument("class_weights", "[V], float32, one per class", _tensor("class_weights")),
        Argument("position_ids", "[B, S], int64, from 0 in each packed document", _tensor("position_ids")),
        Argument("segment_ids", "[B, S], int64, one id per packed document, 0 for padding", _tensor("segment_ids")),
        Argument("cu_seqlens", "[documents + 1], int32, over the flattened B·S tokens", _tensor("cu_seqlens")),
        Argument("input_ids", "shaped as labels, int64, the tokens before any label was ignored", _tensor("input_ids")),
        Argument(
            "audio_input_ids",
            "shaped as audio_labels, int64, the tokens before any label was ignored; −1 where a model has no frame",
            _tensor("audio_input_ids"),
        ),
        Argument("attention_mask", "[B, S], int64, 0 at padding", _tensor("attention_mask")),
        Argument(
            "num_items_in_batch",
            "int, the caller's count of trained tokens, or None",
            lambda c, _: c.batch.num_items_in_batch,
        ),
        Argument("vocab_size", "int, V", lambda c, _: _classes(c, "labels")),
        Argument("audio_vocab_size", "int, V of audio_logits", lambda c, _: _classes(c, "audio_labels")),
        Argument("num_codebooks", "int, K, or the number of heads", lambda c, _: c.recipe.codebooks),
        Argument("ignore_index", "int, the label that is never trained on", lambda c, _: c.spec.terms[0].ignore_index),
        Argument("reduction", "str, mean, sum or none", lambda c, _: str(c.spec.terms[0].reduction)),
        Argument("label_smoothing", "float, ε", _constant("label_smoothing")),
        Argument("lse_square_scale", "float, the factor of the z-loss", _constant("z_loss")),
        Argument("softcap", "float, c of c·tanh(x/c)", _constant("softcap")),
        Argument("logit_scale", "float, the factor of the logits", _constant("logit_scale")),
        Argument("pad_token_id", "int, the id of padding in input_ids", lambda c, _: c.batch.pad_token_id),
        Argument("bos_token_id", "int, an id that begins documents", lambda c, _: c.batch.bos_token_id),
        Argument(
            "eos_token_id", "int, an id that ends documents and is a legal target", lambda c, _: c.batch.eos_token_id
        ),
    )
}


def linear_of(case: Case, binding: Binding) -> Linear:
    """The factors of a case's logits, as the candidate receives them."""
    return factor(case, biased=binding.takes(BIAS))


def _classes(case: Case, labels: str) -> int | None:
    return classes_of(case.spec, labels, case.recipe) if labels in case.spec.labels else None


# Names of the same arguments in well-known functions.
ALIASES = {
    "input": "logits",
    "target": "labels",
    "targets": "labels",
    "medusa_logits": "mtp_logits",
    "weight": "class_weights",
    "ce_weight": "class_weights",
    "z_loss": "lse_square_scale",
    "linear_weight": WEIGHT,
    "linear_bias": BIAS,
}


@dataclass(frozen=True)
class Offer:
    """The arguments that one kind of candidate may take.

    Attributes:
        to: the name of this kind of candidate in messages.
        names: the arguments.
        aliases: other names of some arguments.
        telling: every candidate of this kind takes at least one of these arguments.
        shown: the arguments that messages give as examples.
    """

    to: str
    names: Collection[str]
    aliases: Mapping[str, str]
    telling: Collection[str]
    shown: tuple[str, ...]


TO_MODELS = ("input_ids", "labels", "num_items_in_batch", "shift_labels")
"""The arguments that a model is given. Its other arguments keep their defaults, unless it requires them."""

OF_STREAMS = ("audio_labels", "audio_input_ids")
"""The arguments that a model of text and codebooks is given too."""

TO_LOSSES = Offer("a loss", ARGUMENTS.keys(), ALIASES, LOGITS + LABELS, ("logits", "labels"))


class UnknownArgument(ValueError):
    """A candidate requires an argument that no case has. The message names the most similar known argument."""


@dataclass(frozen=True)
class Binding:
    """The arguments that a candidate takes.

    Attributes:
        names: our name -> the candidate's name, in the order of its parameters.
        required: our names of the arguments without a default.
        takes_any_keyword: whether it has ``**kwargs``.
        is_module: whether it is a torch.nn.Module, or a method of one.
        withheld: our name -> the model's name, of arguments that a model gets only from laws about them.
        made: its own parameters that are made of others -> what they are, such as ``outputs`` with logits.
        stands_in: whether it is given a model that returns the logits of the case.
        spare: its own parameters that have a default and get nothing.
        lacks: what its worker cannot do, of ``worker.target.ABILITIES``.
    """

    names: Mapping[str, str]
    required: frozenset[str]
    takes_any_keyword: bool = False
    is_module: bool = False
    withheld: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    stands_in: bool = False
    spare: tuple[str, ...] = ()
    lacks: frozenset[str] = frozenset()

    def takes(self, name: str) -> bool:
        return name in self.names

    @property
    def is_linear(self) -> bool:
        """Whether the candidate multiplies hidden states with a weight itself, instead of taking logits."""
        return self.takes(HIDDEN) and self.takes(WEIGHT) and not self.takes("logits")

    @property
    def is_model(self) -> bool:
        """Whether the candidate makes its logits from ``input_ids``."""
        has_labels = self.takes("labels") or self.is_module
        return self.takes("input_ids") and has_labels and not any(map(self.takes, (*LOGITS, *LEAVES)))

    @property
    def makes_labels(self) -> bool:
        """Whether the candidate is a model that takes tokens alone: they are its labels too."""
        return self.is_model and not self.takes("labels")

    @property
    def is_trainer(self) -> bool:
        """Whether the candidate is given a model and its micro-batches."""
        return self.takes("model") and self.takes("micro_batches")


def bind(
    target: str,
    parameters: list[tuple[str, bool]],
    rename: Mapping[str, str],
    accepts_any_keyword: bool = False,
    offer: Offer = TO_LOSSES,
    *,
    is_module: bool = False,
) -> Binding:
    """Match a candidate's ``parameters`` (name, required) with the arguments in ``offer``.

    ``rename`` maps our names to the candidate's names.

    Raises:
        UnknownArgument: a required parameter is not one of our arguments; a rename is from or to a name that does not
            exist; two renames have the same target; or the candidate takes none of ``offer.telling``.
    """
    theirs = {name for name, _ in parameters}
    for ours, their in rename.items():
        if ours not in offer.names:
            raise UnknownArgument(f"rename of {ours!r}: {offer.to} gets no such argument{nearest(ours, offer.names)}")
        if their not in theirs and not accepts_any_keyword:
            raise UnknownArgument(f"rename {ours} = {their!r}: {target} has no such parameter{nearest(their, theirs)}")
    if len(set(rename.values())) < len(rename):
        raise UnknownArgument(f"rename maps two arguments to one parameter of {target}; give each its own")
    back = {their: ours for ours, their in rename.items()}
    names: dict[str, str] = {}
    required = set()
    unknown: list[str] = []
    spare: list[str] = []
    for name, needed in parameters:
        ours = back.get(name) or (name if name in offer.names else offer.aliases.get(name, ""))
        renamed_away = ours in rename and rename[ours] != name
        shadowed = name not in back and ours != name and ours in theirs  # an alias beside the name itself
        if not ours or renamed_away or shadowed:
            if needed:
                unknown.append(name)
            else:
                spare.append(name)
            continue
        names[ours] = name
        if needed:
            required.add(ours)
    for ours, their in rename.items():
        names.setdefault(ours, their)
    if unknown:
        free = [ours for ours in offer.shown if ours not in names]
        chosen = dict(zip(free, unknown, strict=False))
        values = " ".join(f"--init {name}=…" for name in unknown)
        told = f"{target} requires {unknown[0]!r}, which {offer.to} is not given{nearest(unknown[0], offer.names)}"
        if not names and len(unknown) < len(free):
            raise UnknownArgument(f"{told}. If it makes the loss, give {values}; `shiftproof list arguments` shows all")
        if 0 < len(unknown) <= len(free):
            raise UnknownArgument(
                f"{told}; {_rename(chosen)} if that is what it is. `shiftproof list arguments` shows all"
            )
        raise UnknownArgument(
            f"{told}; `shiftproof list arguments` shows all arguments. A parameter that is the same in every call gets "
            f"its value by --kwarg {unknown[0]}=… (kwargs = {{ {unknown[0]} = … }})"
        )
    is_alone = is_module and "input_ids" in names  # a model that makes its labels itself
    if not set(offer.telling) & set(names) and not is_alone:
        neither = "neither" if len(offer.shown) > 1 else "no"
        parameters_of_it = ", ".join(sorted(theirs)) or "none"
        told = f"{target} takes {neither} {' nor '.join(offer.shown)} (its parameters: {parameters_of_it})"
        if accepts_any_keyword:
            spare += [name for name in offer.shown if name not in spare]
        if not theirs and not accepts_any_keyword:
            raise UnknownArgument(f"{told}. If it makes the loss, add --init ''")
        if len(spare) < len(offer.shown):
            raise UnknownArgument(
                f"{told}; write a function of {' and '.join(offer.shown)} that calls it, and name that"
            )
        raise UnknownArgument(f"{told}; {_rename(dict(zip(offer.shown, spare, strict=False)))}, or as it is meant")
    binding = Binding(names, frozenset(required), is_module=is_module, spare=tuple(spare))
    return _of_model(binding, accepts_any_keyword) if binding.is_model else binding


def _rename(names: Mapping[str, str]) -> str:
    """How to say that our arguments have these names in the candidate."""
    on_the_line = " ".join(f"--rename {ours}={its}" for ours, its in names.items())
    declared = ", ".join(f'{ours} = "{its}"' for ours, its in names.items())
    return f"add {on_the_line} (rename = {{ {declared} }})"


def _of_model(binding: Binding, accepts_any_keyword: bool) -> Binding:
    """Keep the arguments that a model's loss depends on.

    If the model takes ``**kwargs``, it also gets ``num_items_in_batch`` and ``shift_labels`` there, because trainers
    pass them that way. Not if it takes tokens alone: it would hand them on to its layers.
    """
    given = {*TO_MODELS, *OF_STREAMS, *binding.required}
    names = {name: its for name, its in binding.names.items() if name in given}
    if accepts_any_keyword and not binding.makes_labels:
        names |= {name: name for name in TO_MODELS if name not in names}
    withheld = {name: its for name, its in binding.names.items() if name not in names}
    return replace(binding, names=names, withheld=withheld)


def misfit(target: str, binding: Binding, spec: LossSpec) -> str | None:
    """The reason why a candidate that takes these arguments cannot be judged under ``spec``, or None."""
    if binding.is_trainer:
        reason = no_trainer(spec)
        return reason and f"{target} trains a model on labels [B, S], but {spec.name} does not describe one: {reason}"
    factors = [name for name in LEAVES if name in binding.required]
    if factors and not binding.is_linear:
        told = f"{target} requires {factors[0]}, which comes only with {HIDDEN} and {WEIGHT}, in place of logits"
        missing = [name for name in (HIDDEN, WEIGHT) if not binding.takes(name)]
        if binding.takes("logits") or len(missing) > len(binding.spare):
            return f"{told}; write a function of {HIDDEN}, {WEIGHT} and labels that calls it, and name that"
        return f"{told}; {_rename(dict(zip(missing, binding.spare, strict=False)))}, or as it is meant"
    if binding.is_linear and (reason := no_linear(spec)):
        return f"{target} multiplies {HIDDEN} with {WEIGHT}, but {spec.name} has no such logits: {reason}"
    if binding.is_model and (reason := no_model(spec, binding)):
        return f"{target} is a model that makes its logits from input_ids, but {spec.name} is not for models: {reason}"
    theirs = {name for name in (*LOGITS, *LABELS) if name in binding.required}
    reads = [*spec.logits, *spec.labels]
    for name in sorted(theirs - set(reads)):
        return (
            f"{target} requires {name}, but {spec.name} does not have it: it reads {', '.join(reads)}; "
            "give a spec that has it, see `shiftproof list profiles`"
        )
    if not binding.is_model and (len(spec.logits) > 1 or "logits" not in reads):
        for name in reads:
            if not binding.takes(name):
                told = f"{spec.name} reads {name}, but {target} has no such parameter"
                takes = f"it takes {', '.join((*binding.names.values(), *binding.spare))}"
                if binding.spare:
                    return f"{told} ({takes}); {_rename({name: binding.spare[0]})}, if that is what it is"
                return f"{told} ({takes}); give a spec that reads what it takes, see `shiftproof list profiles`"
    return None


def no_model(spec: LossSpec, binding: Binding) -> str | None:
    """The reason why a spec is not for a model with these arguments, or None."""
    term = spec.terms[0]
    if len(spec.logits) > 1:
        return _no_model_of_streams(spec, binding)
    if spec.logits != ("logits",) or spec.labels != ("labels",) or term.heads not in (Heads.ONE, Heads.CODEBOOKS):
        return f"it reads {', '.join((*spec.logits, *spec.labels))}"
    if spec.layouts and term.heads is Heads.ONE:
        return "it takes flattened logits and labels"
    read = {"codebook_weights": term.codebook_weights is True, "bos_token_id": term.ignores_bos}
    read["eos_token_id"] = term.stops_at_eos
    if missing := [name for name, is_read in read.items() if is_read and not binding.takes(name)]:
        return f"it reads {' and '.join(missing)}, which a model has in its configuration"
    if binding.makes_labels and (term.shifted_by is not ShiftedBy.LOSS or term.heads is not Heads.ONE):
        return "the model makes its labels itself, of the tokens that it is given"
    return None


def _no_model_of_streams(spec: LossSpec, binding: Binding) -> str | None:
    """The reason why a spec of several logits is for no model with two streams or a depth decoder, or None."""
    if spec.logits == ("logits", "depth_logits") and not spec.terms[0].codebook_weights:
        return None
    if spec.logits != ("logits", "audio_logits") or spec.labels != ("labels", "audio_labels"):
        return f"it reads {', '.join((*spec.logits, *spec.labels))}"
    if any(term.codebook_weights or term.token_weights for term in spec.terms):
        return "it reads weights, which a model has in its configuration"
    if spec.layout_of("audio_labels").startswith("k "):
        return "its segments of audio are concatenated"
    if spec.terms[0].shifted_by is not ShiftedBy.LOSS or spec.terms[1].shifted_by is ShiftedBy.DATA:
        return "the labels of such a model are the tokens themselves, and its loss or its inputs are shifted"
    missing = [name for name in OF_STREAMS if not binding.takes(name)]
    return f"it has two streams, and the model takes no {' and no '.join(missing)}" if missing else None


def no_trainer(spec: LossSpec) -> str | None:
    """The reason why a spec is not for a trainer's step, or None."""
    if spec.logits != ("logits",) or spec.labels != ("labels",) or spec.terms[0].heads is not Heads.ONE:
        return f"it reads {', '.join((*spec.logits, *spec.labels))}"
    term = spec.terms[0]
    if spec.layouts:
        return "it takes flattened logits and labels"
    if term.loss_mask or term.token_weights or term.documents is not Documents.NONE or term.score.class_weights:
        return "it reads more than labels"
    if term.extra is not Extra.NONE:
        return "it has logits without a label"
    if term.reduction is not Reduction.MEAN or term.ignore_index is None:
        return "it is not a mean over the labels that are not ignored"
    if term.denominator not in (Denominator.VALID, Denominator.NUM_ITEMS_OR_VALID):
        return f"it divides by {term.denominator}"
    return None


def values_for(case: Case, binding: Binding) -> tuple[dict[str, Tensor], dict[str, Scalar]]:
    """The tensors and the scalars of one case, under the candidate's own names.

    An argument that this case does not have is left out, so that the candidate uses its default. If the candidate
    requires the argument, its value is None.
    """
    withheld = () if binding.is_linear else LEAVES
    return hand_over(binding, lambda ours: None if ours in withheld else ARGUMENTS[ours].give(case, binding))


def hand_over(binding: Binding, give: Callable[[str], Tensor | Scalar]) -> tuple[dict[str, Tensor], dict[str, Scalar]]:
    """Call ``give`` for each argument that a candidate takes. Sort the results as :func:`values_for` does."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Scalar] = {}
    for ours, theirs in binding.names.items():
        value = give(ours)
        if isinstance(value, Tensor):
            tensors[theirs] = value
        elif value is not None or ours in binding.required:
            scalars[theirs] = value
    return tensors, scalars
