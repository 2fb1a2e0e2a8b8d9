"""Which tensor is taken for a model's logits, and when none is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof.harness.worker.model_outputs import LogitsWatch

TOKENS = torch.tensor([[1, 4, 2, 0], [3, 3, 1, 2]])


class Model(nn.Module):
    """Its logits are those of ``network``; ``end`` makes of them what it returns."""

    def __init__(self, end: Callable[[Model, Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 5))
        self.end = end

    def forward(self, tokens: Tensor) -> Any:
        return self.end(self, self.network(tokens), tokens)


def shifted(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def watched(end: Callable[[Model, Tensor, Tensor], Any]) -> tuple[Model, Any]:
    model = Model(end)
    return model, LogitsWatch(model).call(lambda: model(TOKENS))


@pytest.mark.parametrize(
    "end",
    [
        lambda _, logits, tokens: shifted(logits, tokens),
        lambda _, logits, tokens: shifted(logits.double(), tokens),
        lambda _, logits, tokens: F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:]),
        lambda _, logits, tokens: -logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None]).mean(),
        lambda _, logits, tokens: (logits[:, :-1].logsumexp(-1) - logits[:, :-1, 0]).mean(),
        lambda _, logits, tokens: 2 * shifted(logits, tokens) / 3,  # the loss is scaled, the logits are not
        lambda _, logits, tokens: (shifted(logits, tokens),),
        lambda _, logits, tokens: {"loss": shifted(logits, tokens)},
        lambda _, logits, tokens: (logits, shifted(logits, tokens)),
        lambda _, logits, tokens: [shifted(logits, tokens), logits],
    ],
)
def test_the_logits_are_those_that_the_network_returns(end: Callable[[Model, Tensor, Tensor], Any]) -> None:
    model, found = watched(end)
    torch.testing.assert_close(found["logits"], model.network(TOKENS))
    assert found["loss"].dim() == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda _, logits, tokens: shifted(logits / 2, tokens),
        lambda _, logits, tokens: shifted((3 * logits)[:, :, :], tokens),
        lambda _, logits, tokens: shifted(5 * torch.tanh(logits / 5), tokens),
        lambda _, logits, tokens: shifted(logits.clamp(-1, 1), tokens),
        lambda _, logits, tokens: shifted(logits.float().masked_fill(torch.arange(5) > 3, -9.0), tokens),
        lambda _, logits, tokens: shifted(torch.where(torch.arange(5) > 3, -9.0, logits), tokens),
        lambda _, logits, tokens: shifted(logits.index_fill(-1, torch.tensor([4]), -9.0), tokens),
        lambda model, logits, tokens: shifted(model.network[0](tokens) @ model.network[1].weight.T, tokens),
        lambda model, logits, tokens: shifted(logits, tokens) + model.network[1].bias.sum(),
        lambda _, logits, tokens: torch.tensor(2.0, requires_grad=True) * 1,
    ],
)
def test_logits_that_are_changed_on_the_way_or_are_not_the_whole_loss_are_none(
    end: Callable[[Model, Tensor, Tensor], Any],
) -> None:
    _, found = watched(end)
    assert isinstance(found, Tensor)  # the loss, as it was returned


def test_logits_that_were_changed_in_place_are_read_as_they_are_then() -> None:
    def end(_: Model, logits: Tensor, tokens: Tensor) -> Tensor:
        return shifted(logits.div_(2), tokens)

    model, found = watched(end)
    torch.testing.assert_close(found.logits, model.network(TOKENS) / 2)


def test_without_a_graph_the_logits_are_found_where_they_were() -> None:
    model = Model(lambda _, logits, tokens: shifted(logits, tokens))
    watch = LogitsWatch(model)
    with torch.no_grad():
        assert isinstance(watch.call(lambda: model(TOKENS)), Tensor)  # nothing is known yet
    watch.call(lambda: model(TOKENS))
    other = TOKENS.flip(1)
    with torch.inference_mode():
        found = watch.call(lambda: model(other))
        torch.testing.assert_close(found.logits, model.network(other))


class Own(dict[str, Any]):
    logits = None


@pytest.mark.parametrize("own", [{"logits": TOKENS}, Own(loss=TOKENS), "words", None, ()])
def test_a_result_with_logits_of_its_own_and_one_without_a_loss_are_left(own: Any) -> None:
    _, found = watched(lambda *_: own)
    assert found is own


def test_a_model_that_returns_its_logits_is_not_watched_and_no_hook_stays() -> None:
    hooks: list[int] = []

    def count(model: Model) -> None:
        hooks.append(sum(len(part._forward_hooks) for part in model.modules()))

    def end(model: Model, logits: Tensor, tokens: Tensor) -> Any:
        count(model)
        loss = shifted(logits, tokens)
        return (logits, loss) if len(hooks) < 4 else loss

    model = Model(end)
    watch = LogitsWatch(model)
    for _ in range(3):
        watch.call(lambda: model(TOKENS))
        count(model)
    assert hooks[:4] == [0, 0, 0, 0]  # two calls that return logits
    assert hooks[4:] == [0, 4, 0]  # one that does not: it is called again, watched, and left as it was


def test_hooks_are_removed_from_a_model_that_raises() -> None:
    def end(model: Model, logits: Tensor, tokens: Tensor) -> Any:
        if any(part._forward_hooks for part in model.modules()):
            raise ValueError("while it was watched")
        return shifted(logits, tokens)

    model = Model(end)
    with pytest.raises(ValueError, match="while it was watched"):
        LogitsWatch(model).call(lambda: model(TOKENS))
    assert not any(part._forward_hooks for part in model.modules())
