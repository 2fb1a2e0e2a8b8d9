"""Tensors in a safetensors file, written and read without numpy."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from collections.abc import Mapping

import safetensors.torch
import torch

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""dtype -> its name in the format."""

_WORTH_MAPPING = 1 << 20  # bytes; reading a smaller file takes a third of the time of mapping it


def write_tensors(path: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors of any shape, device and memory layout to `path`.

    It does not use safetensors.torch.save_file, which imports numpy (as of 0.8) and refuses tensors that share memory,
    such as labels and a slice of them.

    Raises:
        ValueError: a tensor cannot be written: it has no dense storage, or the format does not support its dtype.
        OSError: the file cannot be written, for example because the disk is full.
    """
    plain = {name: _plain(name, tensor) for name, tensor in tensors.items()}
    # The format needs each tensor aligned to its element size: largest elements first, without gaps.
    order = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        begin, end = end, end + plain[name].nbytes
        header[name] = {
            "dtype": _NAMES[plain[name].dtype],
            "shape": list(plain[name].shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode("utf-8")
    head += b" " * (-len(head) % 8)
    # A new file each time: a process that still has the old file open keeps its data.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            if plain[name].nbytes:
                file.write((ctypes.c_char * plain[name].nbytes).from_address(plain[name].data_ptr()))


def read_tensors(path: str, *, mapped: bool = False) -> dict[str, torch.Tensor]:
    """Read the tensors of `path`, contiguous, on the CPU.

    If `mapped`, large tensors stay in the file, which costs nothing. Then neither they nor the file may be written to
    (`write_tensors` makes a new file). If not, they have their own memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a safetensors file.
    """
    try:
        if os.path.getsize(path) < _WORTH_MAPPING:
            with open(path, "rb") as file:
                return safetensors.torch.load(file.read())
        tensors = safetensors.torch.load_file(path)
    except OSError:
        raise
    except Exception as error:  # safetensors has its own exception class, derived from Exception
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors if mapped else {name: tensor.clone() for name, tensor in tensors.items()}


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether shape, dtype and bits are the same. So NaN equals itself, and 0.0 differs from -0.0."""
    if left.shape != right.shape or left.dtype != right.dtype or left.device != right.device:
        return False
    if left.layout is not torch.strided or (left.numel() and not left.untyped_storage().nbytes()):
        return False  # a candidate replaced the tensor's data, or freed its memory
    return torch.equal(_bytes(left), _bytes(right))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1).contiguous()
    # With one element, every stride is contiguous, but only stride 1 can be viewed as bytes.
    return flat.as_strided((flat.numel(),), (1,)).view(torch.uint8)


def _plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous tensor on the CPU with the same values. Raises ValueError if that cannot be written."""
    if tensor.dtype not in _NAMES:
        raise ValueError(f"cannot write {name!r}: a safetensors file has no dtype {tensor.dtype}")
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        raise ValueError(f"cannot write {name!r}: a {tensor.layout} tensor on {tensor.device} has no dense values")
    return tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
