"""Every profile that a driver speaks for as plain arithmetic, on a batch made by hand: written once more, apart from
the reference and from the packages, so that both can be held to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch

from .peer import Peer

B, S, V, K, D, N = 2, 6, 7, 3, 2, 9


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(*shape: int, below: int = V) -> Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(len(shape)))


def text(kind: str) -> Batch:
    labels = ids(B, S)
    labels[0, 3] = labels[1, 5] = -100
    if kind == "ignored":
        labels[:] = -100
    return Batch(
        logits=numbers(B, S, V),
        labels=labels,
        class_weights=numbers(V).abs() + 0.5,
        loss_mask=numbers(B, S, seed=1) > -0.5,
        token_weights=numbers(B, S, seed=2).abs(),
    )


def minus_one(kind: str) -> Batch:
    batch = text(kind)
    return Batch(logits=batch.logits, labels=batch.tensor("labels").clamp(min=-1))


def with_image(kind: str) -> Batch:
    batch = with_items(kind)
    return replace(batch, logits=torch.cat([numbers(B, 3, V, seed=4), batch.tensor("logits")], 1))


def in_documents(kind: str) -> Batch:
    batch = all_ids(kind)
    return replace(batch, cu_seqlens=torch.tensor([0, 2, 6, 9, 12]))


def with_items(kind: str) -> Batch:
    batch = text(kind)
    return Batch(logits=batch.logits, labels=batch.labels, token_weights=batch.token_weights, num_items_in_batch=N)


def all_ids(kind: str) -> Batch:
    batch = text(kind)
    assert batch.labels is not None
    return Batch(
        logits=batch.logits, labels=batch.labels.clamp(min=0), mtp_logits=numbers(B, S, D, V), loss_mask=batch.loss_mask
    )


def codes(kind: str) -> Batch:
    labels = ids(B, S, K)
    labels[0, 2, 2] = -100
    labels[1, 3] = -100
    if kind == "ignored":
        labels[:] = -100
    return Batch(
        logits=numbers(B, S, K, V),
        labels=labels,
        input_ids=ids(B, S, K),
        codebook_weights=torch.tensor([1.0, 2.0, 0.5]),
        bos_token_id=2,
        eos_token_id=1,
    )


def frames(kind: str) -> Batch:
    return Batch(logits=numbers(B, S, V), labels=codes(kind).labels, depth_logits=numbers(B, S, K - 1, V, seed=3))


def two_streams(kind: str) -> Batch:
    labels = codes(kind).labels
    return Batch(
        logits=numbers(B, S, V),
        labels=text(kind).labels,
        audio_logits=numbers(B, S, K, V, seed=3),
        audio_labels=labels,
    )


def ahead(kind: str) -> Batch:
    return Batch(
        logits=numbers(B, S, V), labels=text(kind).labels, mtp_logits=numbers(B, S, D, V), num_items_in_batch=N
    )


def padded(kind: str) -> Batch:
    labels = text(kind).labels
    assert labels is not None
    return Batch(logits=numbers(B, S, V), labels=labels.masked_fill(labels == -100, 1), pad_token_id=1)


def nll(logits: Tensor, labels: Tensor, batch: Batch, options: dict[str, Any]) -> Tensor:
    """One loss for each label, 0 where it is none."""
    z = options.get("logit_scale", 1.0) * logits
    if softcap := options.get("softcap"):
        z = softcap * (z / softcap).tanh()
    keep = (labels >= 0) & (labels < z.shape[-1])
    own = torch.nn.functional.one_hot(labels.masked_fill(~keep, 0), z.shape[-1]).double()
    epsilon = options.get("label_smoothing", 0.0)
    if options.get("smoothing_over") == "others":
        q = (1 - epsilon) * own + epsilon / (z.shape[-1] - 1) * (1 - own)
    else:
        q = (1 - epsilon) * own + epsilon / z.shape[-1]
    if options.get("class_weights"):
        assert batch.class_weights is not None
        q = q * batch.class_weights.double()
    lse = z.logsumexp(-1, keepdim=True)
    losses = (q * (lse - z)).sum(-1) + options.get("z_loss", 0.0) * lse.squeeze(-1) ** 2
    if options.get("dft"):
        losses = losses * (own * z.softmax(-1)).sum(-1).detach()
    return torch.where(keep, losses, 0.0)


def reduced(losses: Tensor, labels: Tensor, batch: Batch, options: dict[str, Any]) -> Tensor:
    keep = (labels >= 0) & (labels < V)
    if options.get("reduction") == "none":
        return losses
    if options.get("reduction") == "sum":
        return losses.sum()
    count = keep.sum().double()
    if options.get("denominator") == "class_weights":
        assert batch.class_weights is not None
        count = batch.class_weights.double()[labels[keep]].sum()
    if options.get("items") and options.get("denominator") != "valid" and batch.num_items_in_batch is not None:
        count = torch.tensor(float(batch.num_items_in_batch))
    if options.get("clamp"):
        count = count.clamp(min=options["clamp"])
    if options.get("empty") == "zero" and not count:
        return losses.sum() * 0
    return losses.sum() / (count + options.get("epsilon", 0.0))


def causal(logits: Tensor, labels: Tensor, batch: Batch, options: dict[str, Any]) -> Tensor:
    """k = shift: reduced over the pairs."""
    k = options.get("shift", 1)
    logits, labels = logits[:, : logits.shape[1] - k], labels[:, k:]
    losses = nll(logits, labels, batch, options)
    if options.get("mask"):
        assert batch.loss_mask is not None
        losses = losses * batch.loss_mask[:, k:]
        labels = labels.masked_fill(~batch.loss_mask[:, k:].bool(), -100)
    if options.get("weights"):
        assert batch.token_weights is not None
        losses = losses * batch.token_weights[:, k:]
    value = reduced(losses, labels, batch, options)
    return value


def text_loss(**defaults: Any) -> Callable[..., Tensor]:
    def value(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        return causal(leaves["logits"], batch.tensor("labels"), batch, {**defaults, **options})

    return value


def books(combine: Callable[[list[Tensor], Batch], Tensor], **defaults: Any) -> Callable[..., Tensor]:
    def value(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        labels = batch.tensor("labels")
        if defaults.get("parler"):
            assert batch.input_ids is not None
            labels = labels.masked_fill((batch.input_ids == batch.eos_token_id) | (labels == batch.bos_token_id), -100)
        merged = {"shift": 0, **defaults, **options}
        losses = [causal(leaves["logits"][:, :, k], labels[..., k], batch, merged) for k in range(labels.shape[-1])]
        return combine(losses, batch)

    return value


def mean(losses: list[Tensor], batch: Batch) -> Tensor:
    return sum(losses, torch.tensor(0.0)) / len(losses)


def weighted(losses: list[Tensor], batch: Batch) -> Tensor:
    assert batch.codebook_weights is not None
    weights = batch.codebook_weights.double()
    return (torch.stack(losses) * weights).sum() / weights.sum()


def flat(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    logits, labels = leaves["logits"], batch.tensor("labels")
    return causal(logits.flatten(1, 2), labels.flatten(1), batch, {"shift": 0})


def csm(depth_shift: int, factor: float) -> Callable[..., Tensor]:
    def value(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        labels = batch.tensor("labels")
        heads, codebooks = leaves["depth_logits"], labels[..., 1:]
        depth = causal(heads.flatten(0, 1), codebooks.flatten(0, 1), batch, {"shift": depth_shift})
        return causal(leaves["logits"], labels[..., 0], batch, {}) + factor * depth

    return value


def higgs(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    audio, codes = leaves["audio_logits"], batch.tensor("audio_labels")
    losses = [causal(audio[:, :, k], codes[..., k], batch, {}) for k in range(codes.shape[-1])]
    return sum(losses, causal(leaves["logits"], batch.tensor("labels"), batch, {}))


def moshi(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    audio, codes = leaves["audio_logits"], batch.tensor("audio_labels")
    text = causal(leaves["logits"], batch.tensor("labels"), batch, {})
    return text + causal(audio.flatten(1, 2), codes.flatten(1), batch, {"shift": 0})


def megatron_mtp(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    heads, labels = leaves["mtp_logits"].unbind(2), batch.tensor("labels")
    losses = [causal(head, labels, batch, {"shift": d + 1, "mask": True}) for d, head in enumerate(heads)]
    return 0.1 * mean(losses, batch)


def megatron_mtp_packed(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    """The documents of `in_documents`, each as a row of its own: positions 0-1, 2-5 of row 0; 0-2, 3-5 of row 1."""
    labels, mask = batch.tensor("labels"), batch.tensor("loss_mask").double()
    losses = []
    for d, head in enumerate(leaves["mtp_logits"].unbind(2), start=1):
        totals = counts = torch.tensor(0.0, dtype=torch.float64)
        for row, start, end in ((0, 0, 2), (0, 2, 6), (1, 0, 3), (1, 3, 6)):
            kept = mask[row, start:end][d:]
            scores = nll(head[row, start:end][: len(kept)], labels[row, start:end][d:], batch, {})
            totals, counts = totals + (scores * kept).sum(), counts + kept.sum()
        losses.append(totals / counts)
    return 0.1 * mean(losses, batch)


def torchtitan_mtp(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    heads, labels = leaves["mtp_logits"].unbind(2), batch.tensor("labels")
    sums = [causal(head, labels, batch, {"shift": d + 1, "reduction": "sum"}) for d, head in enumerate(heads)]
    main = causal(leaves["logits"], labels, batch, {"shift": 0, "reduction": "sum"})
    return (main + 0.3 * mean(sums, batch)) / N


def medusa(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    heads, labels = leaves["mtp_logits"].unbind(2), batch.tensor("labels")
    return sum((causal(head, labels, batch, {"shift": d + 2}) for d, head in enumerate(heads)), torch.tensor(0.0))


def git(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    return causal(leaves["logits"][:, 3:], batch.tensor("labels"), batch, {"items": True})


def eagle3(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    labels = batch.tensor("labels")
    return causal(leaves["logits"], labels, batch, {"mask": True, "reduction": "sum"}) / labels.numel()


def ms_swift(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    return causal(leaves["logits"], batch.tensor("labels"), batch, {"weights": True, "reduction": "sum"}) / N


PLAIN: dict[str, tuple[Callable[[str], Batch], Callable[..., Tensor]]] = {
    "torch.cross_entropy": (text, text_loss(shift=0)),
    "torch.linear_cross_entropy": (text, text_loss(shift=0)),
    "nanogpt": (minus_one, text_loss(shift=0)),
    "hf.prefix_lm": (with_image, git),
    "preshifted": (text, text_loss(shift=0)),
    "hf.seq2seq": (with_items, text_loss(shift=0, items=True)),
    "hf.causal_lm": (with_items, text_loss(items=True)),
    "hf.label_smoother": (text, text_loss()),
    "liger": (text, text_loss(shift=0, empty="zero")),
    "cce": (text, text_loss()),
    "per_token": (text, text_loss(reduction="none")),
    "per_token.trimmed": (text, text_loss(reduction="none")),
    "trl.nll": (text, text_loss(clamp=1.0)),
    "trl.dft": (text, text_loss(clamp=1.0, dft=True)),
    "litgpt": (text, text_loss(shift=0, clamp=1.0)),
    "fla": (text, text_loss(shift=0, clamp=1.0)),
    "torchtune": (text, text_loss()),
    "torchtitan": (with_items, text_loss(shift=0, items=True)),
    "masked": (text, text_loss(mask=True)),
    "sum": (text, text_loss(reduction="sum")),
    "fairseq": (padded, text_loss(shift=0, reduction="sum", smoothing_over="others")),
    "megatron": (all_ids, text_loss(shift=0, mask=True)),
    "megatron.smoothing": (all_ids, text_loss(shift=0, mask=True)),
    "ms_swift": (with_items, ms_swift),
    "weighted.count": (text, text_loss(weights=True)),
    "eagle3": (all_ids, eagle3),
    "higgs.hf": (two_streams, higgs),
    "moshi": (two_streams, moshi),
    "csm": (frames, csm(0, 1.0)),
    "qwen3_tts": (frames, csm(0, 0.3)),
    "musicgen": (codes, books(mean)),
    "dia": (codes, flat),
    "parler": (codes, books(weighted, parler=True)),
    "megatron.mtp": (all_ids, megatron_mtp),
    "megatron.mtp.packed": (in_documents, megatron_mtp_packed),
    "torchtitan.mtp": (ahead, torchtitan_mtp),
    "medusa": (ahead, medusa),
}

WRONG: dict[str, Callable[..., Tensor]] = {
    "codebook-axis-shift": csm(1, 0.3),
    "count-ignored": text_loss(shift=0),
}
"""What a package computes in place of its profile, by the name that shiftproof has for the bug."""

KINDS = ("some", "ignored")


@dataclass(frozen=True, eq=False)
class Worked:
    """A batch, and what plain arithmetic makes of it in float64: ``value``, and the gradient of its sum at every array
    of logits."""

    batch: Batch
    value: Tensor
    gradients: dict[str, Tensor]


def work(one: Peer, kind: str) -> Worked:
    """What a row of the table promises on the batch of a kind, or, where the package differs, what that computes."""
    make, plain = PLAIN[one.profile]
    batch = make(kind)
    if one.profile == "fairseq" and kind == "some":
        batch.tensor("labels")[0, 0] = 3
    if one.within is not None:
        batch = one.within(batch)
    if "float32" not in one.dtypes:
        batch = replace(batch, logits=batch.tensor("logits").half())
    given = {name: getattr(batch, name) for name in ("logits", "audio_logits", "depth_logits", "mtp_logits")}
    leaves = {name: logits.double().requires_grad_() for name, logits in given.items() if logits is not None}
    ignoring = batch
    if one.profile == "fairseq":
        labels = batch.tensor("labels")
        ignoring = Batch(logits=batch.logits, labels=labels.masked_fill(labels == batch.pad_token_id, -100))
    value = (WRONG[one.differs] if one.differs else plain)(ignoring, leaves, dict(one.options))
    found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    return Worked(batch, value.detach(), gradients)
