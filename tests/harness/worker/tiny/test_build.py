"""Tiny models: of classes made up for it, and of those of an installed transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from shiftproof.harness.worker.tiny.build import CannotBuild, NoPairs, build_tiny
from shiftproof.harness.worker.tiny.configured import Configured
from shiftproof.harness.worker.tiny.embedded import Embedded
from shiftproof.harness.worker.tiny.find import language_models
from shiftproof.harness.worker.tiny.model import TinyModel
from shiftproof.harness.worker.tiny.steps import Steps
from shiftproof.harness.worker.tiny.streams import OfStreams, TinyStreams


class Config:
    def __init__(self, vocab_size: int = 32000, hidden_size: int = 1024, image_size: int = 224) -> None:
        self.vocab_size, self.hidden_size, self.image_size = vocab_size, hidden_size, image_size


class Model(torch.nn.Module):
    """Text with a running mean in place of attention.

    The labels are shifted inside. Nothing else is said here of them.
    """

    config_class = Config

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.dropout = torch.nn.Dropout(0.5)

    def answer(self, ids: torch.Tensor, labels: torch.Tensor | None, more: torch.Tensor | float = 0.0) -> Any:
        hidden = self.embed(ids).cumsum(1) + more
        logits = self.head(self.dropout(hidden))
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return SimpleNamespace(loss=loss, logits=logits)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, use_cache: bool = True) -> Any:
        """What it returns.

        Args:
            input_ids (`torch.Tensor`): tokens.
            labels (`torch.Tensor` of shape `(batch, length)`):
                Labels for the loss.

                They may be -100.
            use_cache (`bool`): not of the labels.
        """
        assert not use_cache
        return self.answer(input_ids, labels)


class Sees(Model):
    """It reads an image."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.see = torch.nn.Linear(3 * config.image_size**2, config.hidden_size)

    def forward(self, input_ids: Any, pixel_values: torch.Tensor, labels: Any = None, **kwargs: Any) -> Any:
        return self.answer(input_ids, labels, self.see(pixel_values.flatten(1))[:, None])


class Hears(Model):
    """It decodes what it makes of labels."""

    main_input_name = "input_features"

    def forward(self, input_features: Any = None, decoder_input_ids: Any = None, labels: Any = None) -> Any:
        assert input_features is not None
        ids = F.pad(labels[:, :-1], (1, 0)) if decoder_input_ids is None else decoder_input_ids
        return self.answer(ids, labels)


def draw(rows: int, length: int, classes: int) -> torch.Tensor:
    return torch.randint(classes, (rows, length), generator=torch.Generator().manual_seed(rows * 100 + length))


def test_a_model_has_telling_logits_and_the_same_weights_each_time() -> None:
    state = torch.random.get_rng_state()
    model, again = build_tiny(Model), build_tiny(Model)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's own draws stay as they were"
    ids = draw(3, 9, model.vocab_size)
    logits = model(ids, ids).logits
    assert torch.equal(logits, again(ids, ids).logits)
    assert not any(module.training for module in model.inner.modules())
    assert 1.5 < logits.std(-1).mean() < 4.5
    assert (logits[:, 1:] - logits[:, :-1]).abs().mean() > 0.5
    assert (model.vocab_size, model.side_inputs, model.reads_input_ids) == (logits.shape[-1], (), True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_added_is_a_function_of_the_row_alone(dtype: torch.dtype) -> None:
    model = build_tiny(Sees).to(dtype)
    assert model.side_inputs == ("pixel_values",)
    ids = draw(4, 5, model.vocab_size)
    logits = model(ids, ids).logits
    alone = model(ids[:1], ids[:1]).logits
    torch.testing.assert_close(alone, logits[:1])
    other = ids.clone()
    other[1:] = 0
    torch.testing.assert_close(model(other, other).logits[0], logits[0])
    same = model(ids[:1].expand(2, -1), ids[:1].expand(2, -1)).logits
    assert not torch.allclose(same[0], same[1]), "rows with the same ids have images of their own"


def test_without_labels_the_ids_are_what_is_decoded() -> None:
    model = build_tiny(Hears)
    assert (model.side_inputs, model.reads_input_ids) == (("input_features",), False)
    ids = draw(2, 6, model.vocab_size)
    torch.testing.assert_close(model(F.pad(ids[:, :-1], (1, 0))).logits, model(draw(2, 6, 5), ids).logits)
    given = model(ids, ids, decoder_input_ids=draw(2, 6, 7)).logits
    torch.testing.assert_close(given, model(draw(2, 6, 7)).logits)


def changed(**members: Any) -> type[torch.nn.Module]:
    return type("Changed", (Model,), members)


def answering(**answer: Any) -> type[torch.nn.Module]:
    def forward(self: Model, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        right = self.answer(input_ids, labels)
        return SimpleNamespace(**{name: change(right) for name, change in answer.items()})

    return changed(forward=forward)


def raises(*args: object, **kwargs: object) -> None:
    raise ValueError("a size\n  does not fit")


@pytest.mark.parametrize(
    ("model_class", "reason"),
    [
        (changed(_backends=["timm"]), "it needs timm, and not all of them are installed"),
        (changed(config_class=None), "does not say what its configuration is"),
        (changed(__init__=raises), "^it cannot be made: ValueError: a size does not fit$"),
        (changed(forward=raises), "a size does not fit"),
        (answering(logits=lambda o: o.logits), r"labels \[4, 12\] give no loss"),
        (answering(loss=lambda o: o.loss, logits=lambda o: o.logits[:, None]), r"its logits are \[4, 1, 12, 99\], not"),
        (answering(loss=lambda o: o.loss, logits=lambda o: o.logits[:, 1:]), r"its logits are \[4, 11, 99\], not"),
        (answering(loss=lambda o: 1.0, logits=lambda o: o.logits / 0), "non-finite logits"),
        (answering(loss=lambda o: 1.0, logits=lambda o: o.logits * 0), "the same for every class"),
        (answering(loss=lambda o: 1.0, logits=lambda o: o.logits.tanh()), "keep a spread of"),
    ],
)
def test_what_cannot_be_built_says_why(model_class: type[torch.nn.Module], reason: str) -> None:
    with pytest.raises(CannotBuild, match=reason):
        build_tiny(model_class)


def test_labels_of_another_shape_are_told_from_a_model_that_fails() -> None:
    def forward(self: Model, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        return self.answer(input_ids, None if labels is None else labels[:, :, 3])

    with pytest.raises(CannotBuild, match=r"^IndexError: .*; without labels its logits are \[4, 12, 99\]$"):
        build_tiny(changed(forward=forward))


def test_labels_that_are_documented_as_codebooks_are_given_as_the_reason() -> None:
    def forward(self: Model, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """Codes.

        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length, num_codebooks)`): codes.
        """
        raises()

    with pytest.raises(CannotBuild, match=r"^its labels are \(batch_size, sequence_length, num_codebooks\), as it doc"):
        build_tiny(changed(forward=forward))


def test_a_loss_that_keeps_its_logits_to_itself_is_built() -> None:
    def forward(self: Model, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        answer = self.answer(input_ids, labels)
        return SimpleNamespace(loss=answer.loss, logits=answer.logits if labels is None else None)

    assert not build_tiny(changed(forward=forward)).gives_logits
    assert build_tiny(Model).gives_logits


def without_logits(self: Model, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
    return SimpleNamespace(loss=self.answer(input_ids, labels).loss)


def test_logits_that_are_never_returned_are_read_at_the_only_head() -> None:
    ids = draw(2, 5, 99)
    model = build_tiny(changed(forward=without_logits))
    torch.testing.assert_close(model(ids, ids).logits, build_tiny(Model)(ids, ids).logits)
    assert not model.inner.head._forward_hooks


def test_logits_that_are_never_returned_are_not_guessed_where_there_are_two_heads() -> None:
    def two_heads(self: Any, config: Any) -> None:
        Model.__init__(self, config)
        self.other = torch.nn.Linear(config.hidden_size, config.vocab_size)

    with pytest.raises(CannotBuild, match="its logits are none, not"):
        build_tiny(changed(__init__=two_heads, forward=without_logits))


def test_what_is_needed_in_train_mode_alone_is_given() -> None:
    def forward(self: Model, input_ids: Any, labels: Any = None, token_type_ids: Any = None) -> Any:
        if self.training and token_type_ids is None:
            raise ValueError("token_type_ids are required when training")
        return self.answer(input_ids, labels, 0.0 if token_type_ids is None else token_type_ids[..., None])

    model = build_tiny(changed(forward=forward))
    assert isinstance(model, TinyModel)
    assert model.side_inputs == ("token_type_ids",)
    assert not model.training


def test_a_model_that_cannot_be_trained_is_built_all_the_same() -> None:
    def forward(self: Model, input_ids: Any, labels: Any = None) -> Any:
        if self.training:
            raises()
        return self.answer(input_ids, labels)

    assert not build_tiny(changed(forward=forward)).training


def test_a_model_of_embeddings_alone_gets_those_of_its_own_table() -> None:
    def forward(self: Model, input_ids: Any = None, inputs_embeds: Any = None, labels: Any = None) -> Any:
        if inputs_embeds is None:
            raise ValueError("pass inputs_embeds")
        logits = self.head(inputs_embeds.cumsum(1))
        return SimpleNamespace(
            loss=F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits=logits
        )

    ids = draw(2, 5, 99)
    model = build_tiny(changed(forward=forward, get_input_embeddings=lambda self: self.embed))
    assert isinstance(model, Embedded)
    torch.testing.assert_close(model(ids, ids).logits, build_tiny(Model)(ids, ids).logits)


def test_each_position_may_have_a_table_of_its_own() -> None:
    def forward(self: Any, input_ids: Any = None, inputs_embeds: Any = None, labels: Any = None) -> Any:
        logits = self.head(inputs_embeds.cumsum(1))
        return SimpleNamespace(
            loss=F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits=logits
        )

    tables = torch.nn.ModuleList(torch.nn.Embedding(99, 64) for _ in range(2))
    model = build_tiny(changed(forward=forward, get_input_embeddings=lambda self: tables))
    ids = torch.zeros(1, 3, dtype=torch.int64)
    assert isinstance(model, Embedded)
    made = model.given(ids)["inputs_embeds"][0]
    torch.testing.assert_close(made, torch.stack([tables[at].weight[0] for at in (0, 1, 0)]))


class StepsConfig(Config):
    def __init__(self, vocab_size: int = 32000, hidden_size: int = 1024, backbone_hidden_size: int = 1024) -> None:
        super().__init__(vocab_size, hidden_size)
        self.backbone_hidden_size = backbone_hidden_size


def test_a_depth_decoder_alone_gets_the_place_of_its_backbone() -> None:
    def forward(self: Model, input_ids: Any, backbone_last_hidden_state: Any = None, labels: Any = None) -> Any:
        hidden = torch.cat((backbone_last_hidden_state[:, None], self.embed(input_ids[:, 1:])), 1).cumsum(1)
        logits = self.head(hidden[:, 1:])
        return SimpleNamespace(loss=F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()), logits=logits)

    model = build_tiny(changed(config_class=StepsConfig, forward=forward))
    assert isinstance(model, Steps)
    ids = draw(2, 5, 99)
    output = model(ids, ids)
    assert output.logits.shape == (2, 5, 99)
    of_rows = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(output.loss, of_rows, msg="row j is scored on code j + 1, and the last row on none")


class SoundConfig(Config):
    num_mel_bins = 16
    latent_dim = 8


def of_ctc(self: Model, input_features: Any, attention_mask: Any = None, labels: Any = None) -> Any:
    if labels is not None and attention_mask.shape[1] != 64:
        raise ValueError("a mask of the frames is needed")
    logits = self.head(self.embed.weight[: input_features.shape[1]].expand(len(input_features), -1, -1))
    return SimpleNamespace(loss=None if labels is None else logits.mean() * labels.shape[1], logits=logits)


def of_latents(self: Model, input_ids: Any, labels: Any = None) -> Any:
    """Flow.

    Args:
        labels (`torch.Tensor` of shape `(batch_size, num_frames, latent_dim)`): latents.
    """
    logits = self.head(self.embed(input_ids))
    return SimpleNamespace(loss=(logits[:, 1:, :8] - labels).square().mean(), logits=logits)


@pytest.mark.parametrize(
    ("forward", "main", "evidence"),
    [
        (
            of_ctc,
            "input_features",
            "^its rows of logits are not the positions of labels: 64 for 2 labels, 64 for 3 lab",
        ),
        (of_latents, "input_ids", r"^its loss has a gradient at its labels, floats \[2, 3, 8\]; regression and flow"),
    ],
)
def test_a_loss_without_pairs_is_told_by_what_it_does(forward: Any, main: str, evidence: str) -> None:
    with pytest.raises(NoPairs, match=evidence):
        build_tiny(changed(config_class=SoundConfig, main_input_name=main, forward=forward))


def test_what_a_trainer_concludes_of_a_count() -> None:
    assert build_tiny(Sees).accepts_loss_kwargs
    assert not build_tiny(Model).accepts_loss_kwargs
    assert build_tiny(changed(accepts_loss_kwargs=True)).accepts_loss_kwargs


def test_documentation_is_what_is_said_of_labels_and_shifts() -> None:
    said = build_tiny(Model).documentation
    assert "Labels for the loss.\n" in said
    assert "They may be -100." in said
    assert said.endswith("The labels are shifted inside.")
    assert "tokens" not in said
    assert "not of the labels" not in said


@pytest.fixture(scope="module")
def built() -> dict[str, TinyModel | OfStreams | str]:
    """Every class of transformers: its tiny model, or why there is none."""
    library = pytest.importorskip("transformers")
    results: dict[str, TinyModel | OfStreams | str] = {}
    for target in language_models("transformers"):
        name = target.partition(":")[2]
        try:
            results[name] = build_tiny(getattr(library, name))
        except CannotBuild as reason:
            results[name] = str(reason)
    return results


@pytest.mark.peers
def test_most_language_models_of_transformers_are_built(built: dict[str, TinyModel | OfStreams | str]) -> None:
    missing = {name: reason for name, reason in built.items() if isinstance(reason, str)}
    assert len(built) - len(missing) >= 240, "\n".join(f"{name}: {reason}" for name, reason in missing.items())
    assert all(reason and "\n" not in reason for reason in missing.values())


@pytest.mark.peers
def test_they_take_any_ids_and_rows_do_not_see_each_other(built: dict[str, TinyModel | OfStreams | str]) -> None:
    wrong: dict[str, str] = {}
    for name, model in built.items():
        if not isinstance(model, TinyModel) or model.codebooks:  # tests/peers/test_audio_models.py judges these
            continue
        for rows, length in ((1, 2), (3, 9)):
            ids, labels = draw(rows, length, model.vocab_size), draw(rows, length, model.vocab_size).flip(0)
            ids[0, 0] = model.vocab_size - 1
            output, alone = model(ids, labels), model(ids[:1], labels[:1])
            if not output.loss.isfinite().all():
                wrong[name] = f"its loss is {output.loss}"
            elif model.gives_logits and not torch.allclose(output.logits[:1], alone.logits, atol=1e-3):
                wrong[name] = f"another batch moves a row by {(output.logits[:1] - alone.logits).abs().max():.3g}"
    assert not wrong


@pytest.mark.peers
def test_controls_of_transformers(built: dict[str, TinyModel | OfStreams | str]) -> None:
    git, llama, t5 = (built[name] for name in ("GitForCausalLM", "LlamaForCausalLM", "T5ForConditionalGeneration"))
    assert isinstance(git, TinyModel)
    assert isinstance(llama, TinyModel)
    assert isinstance(t5, TinyModel)
    ids = draw(2, 5, 99)
    assert git(ids, ids).logits.shape == (2, 5 + 1 + (16 // 8) ** 2, 99), "it puts the image's patches first"
    assert git.side_inputs == ("pixel_values",)
    assert (llama.is_encoder_decoder, t5.is_encoder_decoder) == (False, True)
    assert llama.accepts_loss_kwargs
    assert "labels" in llama.documentation


class BooksConfig(Config):
    def __init__(self, vocab_size: int = 32000, hidden_size: int = 1024, num_codebooks: int = 3) -> None:
        super().__init__(vocab_size, hidden_size)
        self.num_codebooks = num_codebooks


class Books(Model):
    """Codebooks as rows, [B·K, S], each with a head."""

    config_class = BooksConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(config.hidden_size, config.vocab_size) for _ in range(config.num_codebooks)
        )

    def get_output_embeddings(self) -> torch.nn.ModuleList:
        return self.heads

    def of_books(self, books: torch.Tensor, labels: torch.Tensor) -> Any:
        """``books`` [B, K, S], ``labels`` [B, S, K]."""
        hidden = self.embed(books).sum(1).cumsum(1)
        logits = torch.stack([head(hidden) for head in self.heads], 1)
        loss = F.cross_entropy(logits.permute(0, 3, 2, 1), labels)
        return SimpleNamespace(loss=loss, logits=logits.flatten(0, 1))

    def forward(self, input_ids: torch.Tensor, labels: Any = None) -> Any:
        return self.of_books(input_ids.reshape(-1, self.config.num_codebooks, input_ids.shape[-1]), labels)


class BooksOfText(Books):
    """Its encoder reads text, and its decoder codebooks [B, S, K]."""

    def forward(self, input_ids: torch.Tensor, decoder_input_ids: Any = None, labels: Any = None) -> Any:
        assert input_ids.shape[0] == decoder_input_ids.shape[0]
        return self.of_books(decoder_input_ids.transpose(1, 2), labels)


def test_a_model_of_codebooks_has_telling_logits_in_each() -> None:
    model = build_tiny(Books)
    assert isinstance(model, TinyModel)
    assert (model.codebooks, model.tokens) == (3, "input_ids")
    books = torch.randint(model.vocab_size, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    logits = model(books.flatten(0, 1), books.transpose(1, 2)).logits
    assert logits.shape == (6, 6, model.vocab_size)
    assert all(0.5 < of_book.std(-1).mean() < 9 for of_book in logits)


def test_a_decoder_of_codebooks_beside_an_encoder_gets_text_for_that() -> None:
    model = build_tiny(BooksOfText)
    assert isinstance(model, TinyModel)
    assert (model.codebooks, model.tokens, model.side_inputs) == (3, "decoder_input_ids", ("input_ids",))


class WeightedConfig(BooksConfig):
    def __init__(self, vocab_size: int = 32000, hidden_size: int = 1024, num_codebooks: int = 3) -> None:
        super().__init__(vocab_size, hidden_size, num_codebooks)
        self.codebook_weights, self.bos_token_id, self.eos_token_id = None, 97, 98


def test_a_call_says_what_a_configuration_says_otherwise() -> None:
    def forward(self: Any, input_ids: torch.Tensor, labels: Any = None) -> Any:
        output = self.of_books(input_ids, labels)
        output.said = (self.config.codebook_weights, self.config.bos_token_id, self.config.eos_token_id)
        return output

    model = build_tiny(type("Weighted", (Books,), {"config_class": WeightedConfig, "forward": forward}))
    assert isinstance(model, Configured)
    ids = torch.randint(99, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    said = model(ids, ids.transpose(1, 2), torch.tensor([1.0, 0.0, 0.5]), 5, 6).said
    assert said == ([1.0, 0.0, 0.5], 5, 6)
    assert (model.inner.config.codebook_weights, model.inner.config.eos_token_id) == (None, 98), "and later not"


class StreamsConfig(BooksConfig):
    def __init__(self, vocab_size: int = 32000, hidden_size: int = 1024, codebook_size: int = 40) -> None:
        super().__init__(vocab_size, hidden_size)
        self.codebook_size, self.audio_token_id = codebook_size, 7


class Streams(Model):
    """Text and packed frames, as Higgs audio; the logits of the text are not returned."""

    config_class = StreamsConfig

    def __init__(self, config: Any, use_text_head: bool = False) -> None:
        super().__init__(config)
        assert use_text_head
        size = config.num_codebooks * config.codebook_size
        self.embed_frames = torch.nn.Embedding(size, config.hidden_size)
        self.audio_head = torch.nn.Linear(config.hidden_size, size)


class ReadsStreams(Streams):
    def forward(
        self,
        input_ids: Any,
        labels: Any = None,
        audio_input_ids: Any = None,
        audio_input_ids_mask: Any = None,
        audio_labels: Any = None,
        return_dict: bool = False,
    ) -> Any:
        assert return_dict
        here = input_ids == self.config.audio_token_id
        assert int(here.sum()) == int(audio_input_ids_mask.sum())
        books, size = self.config.num_codebooks, self.config.codebook_size
        frames = self.embed_frames(audio_input_ids + torch.arange(books) * size).sum(2)[audio_input_ids_mask]
        hidden = self.embed(input_ids).masked_scatter(here[..., None], frames).cumsum(1)
        expanded = torch.full((*input_ids.shape, books), -100)
        expanded[here] = audio_labels[audio_input_ids_mask]
        audio = self.audio_head(hidden)
        of_audio = F.cross_entropy(audio.unflatten(-1, (books, size)).permute(0, 3, 1, 2), expanded)
        loss = F.cross_entropy(self.head(hidden).transpose(1, 2), labels) + of_audio
        return SimpleNamespace(loss=loss, logits=audio, expanded=expanded)


def test_a_model_of_text_and_frames_is_given_them_side_by_side() -> None:
    model = build_tiny(ReadsStreams)
    assert isinstance(model, TinyStreams)
    assert (model.codebooks, model.vocab_size, model.audio_vocab_size) == (3, 99, 40)
    ids = draw(2, 5, 99)
    frames = torch.randint(40, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    frames[0, :2], frames[1] = -1, -1
    seen = model(ids, ids, frames, frames.masked_fill(frames < 0, -100))
    assert (seen.logits.shape, seen.audio_logits.shape) == ((2, 5, 99), (2, 5, 120))
    other = frames.clone()
    other[0, 4] = 0
    moved = model(ids, ids, other, frames.masked_fill(frames < 0, -100)).audio_logits != seen.audio_logits
    assert moved.any(-1).tolist() == [[False] * 4 + [True], [False] * 5]
    assert 1.5 < seen.logits.std(-1).mean() < 4.5
    assert 0.7 < seen.audio_logits.std(-1).mean() < 9
