"""What a safetensors file begins with, for files that are written as a stream and never lie on a disk.

Format: 8 bytes length, a JSON header with each tensor's dtype, shape and place, then the values one after another
(huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

import torch

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ALIGNMENT = 8  # of the first value, as safetensors has it


def header(
    tensors: Iterable[tuple[str, torch.dtype, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """tensors: (name, dtype, shape) in the order of their values. metadata: transformers wants {"format": "pt"}."""
    content, offset = {} if metadata is None else {"__metadata__": dict(metadata)}, 0
    for name, dtype, shape in tensors:
        end = offset + dtype.itemsize * math.prod(shape)
        content[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
