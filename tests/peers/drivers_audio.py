"""Losses of speech models. Shapes: text logits [B, S, V]; codebooks [B, S, K, V] with labels [B, S, K].

The models are the packages' own classes without a body: `_hollow` skips their `__init__`, and what stands where the
backbone and the heads are gives the batch's logits. Their `forward` then computes the loss as it does in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.reference.batch import Batch

from .packages import load
from .peer import Answer, Cannot, Gives, answer, leaf, peer


def _hollow(kind: Any, config: Any, **parts: object) -> Any:
    """A model of transformers' with the attributes of its base class, and these parts."""
    model = kind.__new__(kind)
    load("transformers.modeling_utils").PreTrainedModel.__init__(model, config)
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def _body(*shape: int) -> Gives:
    """Stands where a backbone is; its hidden states are zeros."""
    outputs = load("transformers.modeling_outputs").BaseModelOutputWithPastAndCrossAttentions
    return Gives(outputs(last_hidden_state=torch.zeros(shape)))


def _zeros_for_ids(width: int = 1) -> Callable[..., Tensor]:
    """An embedding that has a vector, of zeros, for every id, −100 too."""
    return lambda ids: torch.zeros(*ids.shape, width)


HIGGS = "transformers.models.higgs_audio_v2.modeling_higgs_audio_v2"


@peer("transformers", f"{HIGGS}.HiggsAudioV2ForConditionalGeneration.forward", "higgs.hf")
def higgs(batch: Batch) -> Answer:
    """Every position holds an audio placeholder, so that the audio labels land where the batch has them."""
    module = load(HIGGS)
    config = load("transformers").HiggsAudioV2Config()
    logits, audio = leaf(batch.tensor("logits")), leaf(batch.tensor("audio_logits"))
    labels, audio_labels = batch.tensor("labels"), batch.tensor("audio_labels")
    if audio.shape[:2] != labels.shape:
        raise Cannot("its audio and its text share their positions")
    config.vocab_size, config.num_codebooks, config.codebook_size = logits.shape[-1], *audio.shape[2:]
    body = _body(*labels.shape, 1)
    body.config = config
    body.get_placeholder_mask = MethodType(module.HiggsAudioV2Model.get_placeholder_mask, body)
    model = _hollow(
        module.HiggsAudioV2ForConditionalGeneration,
        config,
        model=body,
        audio_lm_head=Gives(audio.flatten(2)),
        text_lm_head=Gives(logits),
    )
    value = model(
        input_ids=torch.full_like(labels, config.audio_token_id),
        audio_input_ids_mask=torch.ones_like(labels, dtype=torch.bool),
        labels=labels,
        audio_labels=audio_labels,
        num_items_in_batch=batch.num_items_in_batch,
    ).loss
    return answer(value, logits=logits, audio_logits=audio)


CSM = "transformers.models.csm.modeling_csm"


@peer("transformers", f"{CSM}.CsmForConditionalGeneration.forward", "csm")
def csm(batch: Batch) -> Answer:
    """The depth decoder is run on the frames that have a label beyond the first codebook; only theirs are given."""
    module = load(CSM)
    config = load("transformers").CsmConfig()
    logits, depth, labels = leaf(batch.tensor("logits")), leaf(batch.tensor("depth_logits")), batch.tensor("labels")
    books = labels.shape[-1]
    config.vocab_size = config.depth_decoder_config.vocab_size = logits.shape[-1]
    config.num_codebooks = config.depth_decoder_config.num_codebooks = books
    trained = (labels[..., 1:] != -100).any(-1)
    decoder = _hollow(
        module.CsmDepthDecoderForCausalLM,
        config.depth_decoder_config,
        model=_body(int(trained.sum()), books, 1),
        codebooks_head=Gives(depth[trained]),
    )
    body = _body(*labels.shape[:2], 1)
    model = _hollow(
        module.CsmForConditionalGeneration,
        config,
        backbone_model=body,
        lm_head=Gives(logits),
        depth_decoder=decoder,
    )
    embedded = torch.zeros(*labels.shape[:2], 1)
    value = model(inputs_embeds=embedded, labels=labels, num_items_in_batch=batch.num_items_in_batch).loss
    return answer(value, logits=logits, depth_logits=depth)


def delayed_by_one(batch: Batch) -> Batch:
    """The batch without a label for codebooks 1.. at the first frame, where Moshi's delay leaves none, nor a count."""
    labels = batch.tensor("audio_labels").clone()
    labels[:, :1, 1:] = -100
    return replace(batch, audio_labels=labels, num_items_in_batch=None)


MOSHI = "transformers.models.moshi.modeling_moshi"


@peer(
    "transformers",
    f"{MOSHI}.MoshiForConditionalGeneration.forward",
    "moshi",
    within=delayed_by_one,
    note="codebooks 1.. have no label at the first frame: it delays them itself",
)
def moshi(batch: Batch) -> Answer:
    """`forward` delays the audio labels itself, so it is given them undelayed.

    What is undelayed loses the first label of every codebook but the first, which the delay fills with the sentinel.
    """
    module = load(MOSHI)
    config = load("transformers").MoshiConfig()
    logits, audio = leaf(batch.tensor("logits")), leaf(batch.tensor("audio_logits"))
    labels, audio_labels = batch.tensor("labels"), batch.tensor("audio_labels")
    books, classes = audio.shape[2:]
    if audio_labels.shape[:2] != labels.shape:
        raise Cannot("its audio and its text share their positions")
    if ((audio_labels[:, :1, 1:] != -100) & (audio_labels[:, :1, 1:] != classes)).any():
        raise Cannot("it delays codebooks 1.. by one, so that they have no label at the first frame")
    config.vocab_size, config.audio_vocab_size = logits.shape[-1], classes
    config.depth_decoder_config.audio_vocab_size = classes
    undelayed = audio_labels.clone()
    undelayed[:, :-1, 1:] = audio_labels[:, 1:, 1:]
    undelayed[:, -1:, 1:] = -100
    frames = labels.numel()
    causal = _hollow(module.MoshiForCausalLM, config, model=_body(*labels.shape, 1), lm_head=Gives(logits))
    decoder = _hollow(
        module.MoshiDepthDecoder,
        config.depth_decoder_config,
        layers=nn.ModuleList(),
        gradient_checkpointing=False,
        lm_heads=Gives(audio.reshape(frames, books, classes)),
        input_projections=Gives(torch.zeros(frames, books, 1)),
    )
    decoder.text_embed_tokens = _zeros_for_ids()
    decoder.embed_tokens = [_zeros_for_ids()] * (books - 1)
    model = _hollow(
        module.MoshiForConditionalGeneration, config, decoder=causal, depth_decoder=decoder, num_codebooks=books
    )
    value = model(
        inputs_embeds=torch.zeros(*labels.shape, 1),
        text_labels=labels,
        audio_labels=undelayed.transpose(1, 2),
    ).loss
    return answer(value, logits=logits, audio_logits=audio)


MUSICGEN = "transformers.models.musicgen.modeling_musicgen"


@peer("transformers", f"{MUSICGEN}.MusicgenForCausalLM.forward", "musicgen")
def musicgen(batch: Batch) -> Answer:
    module = load(MUSICGEN)
    config = load("transformers").MusicgenDecoderConfig()
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    books = labels.shape[-1]
    config.vocab_size = config.pad_token_id = logits.shape[-1]
    config.num_codebooks = books
    model = _hollow(
        module.MusicgenForCausalLM,
        config,
        model=_body(1, 1, 1),
        lm_heads=nn.ModuleList([Gives(logits[:, :, book]) for book in range(books)]),
        num_codebooks=books,
        somewhere=nn.Parameter(torch.zeros(1)),  # it starts its sum on its parameters' device
    )
    return answer(model(input_ids=torch.zeros(1, 1, dtype=torch.int64), labels=labels).loss, logits=logits)


DIA = "transformers.models.dia.modeling_dia"


@peer("transformers", f"{DIA}.DiaForConditionalGeneration.forward", "dia")
def dia(batch: Batch) -> Answer:
    module = load(DIA)
    config = load("transformers").DiaConfig()
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    rows, positions, books, classes = logits.shape
    config.decoder_config.vocab_size, config.decoder_config.num_channels = classes, books
    outputs = load("transformers.modeling_outputs").Seq2SeqModelOutput
    model = _hollow(
        module.DiaForConditionalGeneration,
        config,
        model=Gives(outputs(last_hidden_state=torch.zeros(rows, positions, 1))),
        logits_dense=Gives(logits.reshape(rows, positions, books * classes)),
        num_channels=books,
        vocab_size=classes,
        loss_type="ForMaskedLM",  # as its __init__, which is not run, sets it
    )
    flat = labels.transpose(1, 2).reshape(rows * books, positions).contiguous()
    value = model(
        input_ids=torch.zeros(rows, 1, dtype=torch.int64),
        labels=flat,
        num_items_in_batch=batch.num_items_in_batch,
    ).loss
    return answer(value, logits=logits)


@peer("audiocraft", "audiocraft.solvers.musicgen.MusicGenSolver._compute_cross_entropy", "musicgen")
def audiocraft(batch: Batch) -> Answer:
    """Its mask is an argument: here, the labels that are codes."""
    below = ("solvers.base", "solvers.builders", "solvers.compression", "metrics", "models", "data", "modules", "utils")
    stand_ins = ("flashy", "omegaconf", *(f"audiocraft.{name}" for name in below))
    solver = load("audiocraft.solvers.musicgen", stand_ins).MusicGenSolver
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels").transpose(1, 2)
    logits_of_labels = logits[:, logits.shape[1] - labels.shape[-1] :].transpose(1, 2)
    mask = (labels != -100) & (labels != logits.shape[-1])
    value, _ = solver._compute_cross_entropy(None, logits_of_labels, labels, mask)
    return answer(value, logits=logits)


@peer("parler-tts", "parler_tts.modeling_parler_tts.ParlerTTSForCausalLM.forward", "parler")
def parler(batch: Batch) -> Answer:
    """transformers is stood in for: this release was written for a much older one."""
    names = ("configuration_parler_tts", "dac_wrapper", "logits_processors")
    stand_ins = ("transformers", "flash_attn", *(f"parler_tts.{name}" for name in names))
    forward = load("parler_tts.modeling_parler_tts", stand_ins).ParlerTTSForCausalLM.forward
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels")
    books = labels.shape[-1]
    weights = batch.codebook_weights
    config = SimpleNamespace(
        use_return_dict=False,
        codebook_weights=None if weights is None else weights.tolist(),
        bos_token_id=batch.bos_token_id,
        eos_token_id=batch.eos_token_id,
        num_codebooks=books,
    )
    model = SimpleNamespace(
        config=config,
        device=logits.device,
        use_fused_lm_heads=False,
        model=lambda *args, **kwargs: (None,),
        lm_heads=[Gives(logits[:, :, book]) for book in range(books)],
    )
    inputs = batch.tensor("input_ids").transpose(1, 2)
    value = forward(model, input_ids=inputs, labels=labels, return_dict=False)[0]
    return answer(value, logits=logits)


MAGPIE = "nemo.collections.tts.models.magpietts"


@peer(
    "nemo-toolkit",
    f"{MAGPIE}.MagpieTTSModel.compute_loss",
    "musicgen",
    empty="zero",
    extra="none",
    note="an empty codebook adds 0, and K stays",
)
def magpie(batch: Batch, empty: str, extra: str) -> Answer:
    """It masks by the rows' lengths, or by an explicit mask, which is used here. Empty codebooks add 0, and K stays."""
    above = ("common", "tts.data", "tts.losses", "tts.modules", "tts.parts")
    others = ("soundfile", "wandb", "lhotse", "lightning", "omegaconf", "nemo.core", "nemo.utils")
    module = load(MAGPIE, (*others, *(f"nemo.collections.{name}" for name in above)))
    names = [name for name, kind in vars(module).items() if isinstance(kind, type) and "compute_loss" in vars(kind)]
    logits, labels = leaf(batch.tensor("logits")), batch.tensor("labels").transpose(1, 2)
    rows, positions, books, classes = logits.shape
    mask = (labels != -100) & (labels != classes)
    if not mask.any():
        raise Cannot("it returns a constant without a target")
    if positions != labels.shape[-1]:
        raise Cannot("it has no logits but the labels'")
    module.get_mask_from_lengths = lambda lengths, **kwargs: torch.ones(rows, positions, dtype=torch.bool)
    module.pad_audio_codes = lambda codes, factor: codes
    model = SimpleNamespace(
        frame_stacking_factor=1,
        num_audio_codebooks=books,
        num_all_tokens_per_codebook=classes,
        cross_entropy_loss=nn.CrossEntropyLoss(reduction="none"),
        global_step=0,
    )
    value, _ = getattr(module, names[0]).compute_loss(
        model, logits.flatten(2), labels.masked_fill(~mask, 0), None, mask_tokens_mask=mask
    )
    return answer(value, logits=logits)


QWEN = "qwen_tts.core.models.modeling_qwen3_tts"


@peer(
    "qwen-tts",
    f"{QWEN}.Qwen3TTSTalkerForConditionalGeneration",
    "qwen3_tts",
    variant={"depth": "as published"},
    differs="codebook-axis-shift",
    note="its sub-talker shifts along the codebooks a second time: head j is scored on codebook j + 2, the last on "
    "nothing",
)
def qwen(batch: Batch, depth: str) -> Answer:
    """talker + 0.3 · sub-talker, as the published fine-tuning script adds them.

    The published sub-talker shifts along the codebooks a second time: head j is scored on codebook j + 2, the last on
    nothing. It therefore differs from the profile, which is the intended loss; the test expects that.
    """
    load("transformers.audio_utils")  # first: it would look for all that comes with librosa, which is stood in for
    module = load(QWEN, ("librosa", "qwen_tts.inference"))
    logits, heads, labels = leaf(batch.tensor("logits")), leaf(batch.tensor("depth_logits")), batch.tensor("labels")
    classes, books = logits.shape[-1], labels.shape[-1]
    talker_config, config = module.Qwen3TTSTalkerConfig(), module.Qwen3TTSTalkerCodePredictorConfig()
    talker_config.vocab_size = config.vocab_size = classes
    config.num_code_groups = talker_config.num_code_groups = books
    trained = (labels[..., 1:] != -100).any(-1)
    talker = _hollow(
        module.Qwen3TTSTalkerForConditionalGeneration,
        talker_config,
        model=_body(*labels.shape[:2], 1),
        codec_head=Gives(logits),
    )
    talker.rope_deltas = None
    predictor = _hollow(
        module.Qwen3TTSTalkerCodePredictorModelForConditionalGeneration,
        config,
        model=_body(int(trained.sum()), books, 1),
        lm_head=nn.ModuleList([Gives(heads[trained][:, book]) for book in range(books - 1)]),
        small_to_mtp_projection=nn.Identity(),
    )
    main = talker.loss_function(logits=logits, labels=labels[..., 0], vocab_size=classes)
    frames = torch.zeros(int(trained.sum()), books, 1)
    value = main + 0.3 * predictor.forward_finetune(inputs_embeds=frames, labels=labels[trained][:, 1:]).loss
    return answer(value, logits=logits, depth_logits=heads)
