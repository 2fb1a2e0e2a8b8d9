"""What is known of releases of other people's libraries, each an entry of [tool.versions] in pyproject.toml."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
EXAMPLES, DRIVERS = ROOT / "examples" / "trainers", Path(__file__).with_name("drivers_trainers.py")
PARLER, QWEN = Path(__file__).with_name("wrong_parler.py"), "qwen_tts.core.models.modeling_qwen3_tts"
FUSED, SHAPES = ROOT / "examples" / "fused_linear.py", ROOT / "examples" / "call_shapes"


class Known(NamedTuple):
    """What is known of a target under a spec with one version: the bug by its name, or None where it is right."""

    version: str
    target: str
    spec: str
    bug: str | None
    how: tuple[str, ...] = ("--deadline", "60")


SLOWLY = ("--profile", "brief", "--deadline", "300")


def example(version: str, target: str, spec: str, bug: str | None = None) -> Known:
    return Known(version, f"{EXAMPLES}/{target}", spec, bug)


KNOWN = [
    # transformers' Trainer with Llama's convention for counts
    example("transformers-4.45.2", "hf_trainer.py:step", "hf.causal_lm", "mean-of-means"),
    example("transformers-4.46.1", "hf_trainer.py:step", "hf.causal_lm"),
    example("transformers-4.57.6", "hf_trainer.py:step", "hf.causal_lm", "overcount-rows"),
    example("transformers-5.9.0", "hf_trainer.py:step", "hf.causal_lm", "overcount-rows"),
    example("transformers-5.10.4", "hf_trainer.py:step", "hf.causal_lm"),
    example("transformers-5.18.0", "hf_trainer.py:step", "hf.causal_lm"),
    # a model whose labels are aligned, and one that takes a count and does not use it
    example("transformers-5.18.0", "hf_trainer.py:step", "hf.seq2seq"),
    Known("transformers-5.18.0", f"{DRIVERS}:bart", "hf.seq2seq", "sum-of-means"),
    # label smoothing, which shifts for classes that Trainer knows by name
    example("transformers-5.18.0", "hf_trainer.py:smoothed", "hf.label_smoother"),
    Known("transformers-5.18.0", f"{DRIVERS}:smoothed_by_a_stranger", "hf.label_smoother", "smoothing-no-shift"),
    example("transformers-5.18.0", "accelerate_loop.py:step", "hf.causal_lm"),
    example("transformers-5.18.0", "accelerate_loop.py:mean_of_means", "hf.causal_lm", "mean-of-means"),
    example("lightning-2.6.6", "lightning_loop.py:step", "hf.causal_lm"),
    example("lightning-2.6.6", "lightning_loop.py:mean_of_means", "hf.causal_lm", "mean-of-means"),
    Known("lightning-2.6.6", f"{SHAPES}/lightning_module.py:LanguageModel.training_step", "hf.causal_lm", None),
    Known("transformers-5.18.0", f"{SHAPES}/trainer_subclass.py:MyTrainer.compute_loss", "hf.causal_lm", None),
    Known("transformers-4.57.6", f"{SHAPES}/trainer_subclass.py:MyTrainer.compute_loss", "hf.causal_lm", None),
    example("trl-1.16.0", "sft_trainer.py:padded", "hf.causal_lm"),
    example("trl-1.16.0", "sft_trainer.py:padding_free", "hf.causal_lm"),
    example("trl-1.16.0", "sft_trainer.py:packed", "hf.causal_lm"),
    example("trl-0.23.1", "sft_trainer.py:padding_free", "hf.causal_lm"),
    # models
    Known("transformers-4.57.6", "transformers:GitForCausalLM", "hf.prefix_lm", "flat-double-shift"),
    Known("transformers-5.18.0", "transformers:GitForCausalLM", "hf.prefix_lm", None),
    Known("transformers-5.12.1", "transformers:MoonshineForConditionalGeneration", "hf.seq2seq", "aligned-shift"),
    Known("transformers-5.18.0", "transformers:MoonshineForConditionalGeneration", "hf.seq2seq", None),
    Known("transformers-5.18.0", "transformers:LlamaForCausalLM", "hf.causal_lm", None),
    Known("parler-tts-0.2.3", "parler_tts:ParlerTTSForCausalLM", "parler", None),
    Known("parler-tts-0.2.3", "parler_tts:ParlerTTSForConditionalGeneration", "parler", None),
    Known("parler-tts-0.2.3", f"{PARLER}:PastTheEnd", "parler", "mask-by-labels"),
    Known("qwen-tts-0.1.1", f"{QWEN}:Qwen3TTSTalkerForConditionalGeneration", "hf.causal_lm", None),
    # fused kernels, interpreted
    Known("liger-0.8.1", f"{FUSED}:liger_per_token", "per_token", "upstream-row-0", SLOWLY),
    Known("liger-0.8.2", f"{FUSED}:liger_per_token", "per_token", None, SLOWLY),
    # collators
    example("trl-0.22.2", "collators.py:trl_padding_free", "packing.labels", "cross-document"),
    example("trl-0.23.0", "collators.py:trl_padding_free", "packing.labels", "cross-document"),
    example("trl-0.23.1", "collators.py:trl_padding_free", "packing.labels"),
    example("trl-1.16.0", "collators.py:trl_padding_free", "packing.labels"),
    example("trl-0.23.1", "collators.py:trl_completion_only", "mask.prompt"),
    example("transformers-5.18.0", "collators.py:transformers_flattening", "packing.labels"),
]
