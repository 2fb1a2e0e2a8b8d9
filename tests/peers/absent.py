"""What no package's row in docs/peers.md speaks for, and why: systems, and the profiles that they would speak for."""

from __future__ import annotations

ABSENT: dict[str, str] = {
    "boson-multimodal 0.1.1 (Higgs-audio)": "ships the model and its collator, but computes no loss: trainers add it",
    "EAGLE-3": "its own repository is on no package index; SpecForge's implementation runs instead",
    "fla-core FusedCrossEntropyLoss": "the module refuses tensors on a CPU; the function that it calls runs instead",
    "maxtext 0.2.5": "needs Python 3.12 and JAX; this project's environment has Python 3.11",
    "Megatron-LM pretrain_gpt.py": "a script that megatron-core does not ship; its per-token loss runs instead",
    "MOSS-TTSD": "on no package index",
    "moshi-finetune": "on no package index; the `moshi` package has the per-token loss only, which runs",
    "nanoGPT, nanochat": "on no package index; nanoGPT's loss is one call of torch's cross_entropy, which runs",
    "Qwen3-TTS sft_12hz.py": "a script that qwen-tts does not ship; the model's losses run, added as it adds them",
    "unsloth, unsloth-zoo": "raise as they are imported where there is no accelerator",
}

# Each is shown by a test in test_peers.py.
BUGS: dict[str, str] = {
    "cut-cross-entropy 25.1.1, its own kernels with a softcap c": "wrong wherever their block (128 here) does not "
    "divide V: the forward masks the classes past V with −∞, and then caps that to −c, so that they count. Its row has "
    "V = 128; its `torch_compile` is right.",
}

HAND_WORKED: dict[str, str] = {
    "higgs.text": "a convention of trainers' collators, in no package",
    "higgs.boson": "boson-multimodal computes no loss",
    "higgs.mean_nonempty": "a convention of trainers, in no package",
    "maxtext": "needs JAX",
    "maxtext.z_loss": "needs JAX",
    "maxtext.mtp": "needs JAX",
    "moshi.finetune": "on no package index",
    "moss_ttsd": "on no package index",
    "nanochat": "on no package index",
    "packed.cu_seqlens": "a convention of packed batches: losses are given labels that are ignored at the boundaries",
    "packed.position_ids": "the same",
    "packed.segment_ids": "the same",
    "weighted": "moshi-finetune is on no package index",
}
