"""x-transformers' own AutoregressiveWrapper, which takes ids alone. It needs arguments, so a factory makes it."""

import torch
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper


def make() -> AutoregressiveWrapper:
    torch.manual_seed(0)
    network = TransformerWrapper(num_tokens=61, max_seq_len=64, attn_layers=Decoder(dim=32, depth=1, heads=2))
    return AutoregressiveWrapper(network)
