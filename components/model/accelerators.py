"""What a plan knows of accelerators: published peaks, per device, in one direction. Nothing here was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from components.failures import BadInput


@dataclass(frozen=True)
class Accelerator:
    """memory: bytes. flops: dense peak per second by dtype of the operands; float32 without TF32, torch's default
    (tfloat32 is float32 with it).
    bandwidth: of the memory. link: to the other devices of a node. network: to other nodes. All bytes per second."""

    name: str
    memory: float
    flops: dict[str, float]
    bandwidth: float
    link: float
    network: float
    per_node: int
    source: str


HOPPER = {"fp8": 1978.9e12, "bfloat16": 989.4e12, "tfloat32": 494.7e12, "float32": 66.9e12}
BLACKWELL = {"fp8": 4500e12, "bfloat16": 2250e12, "tfloat32": 1125e12, "float32": 80e12}
ACCELERATORS = {
    device.name: device
    for device in (
        Accelerator(
            *("A100", 80e9, {"bfloat16": 312e12, "tfloat32": 156e12, "float32": 19.5e12}, 2.039e12, 300e9, 25e9, 8),
            source="NVIDIA A100 80GB SXM data sheet; DGX A100: 200 Gb/s a GPU",
        ),
        Accelerator(
            *("H800", 80e9, HOPPER, 3.35e12, 200e9, 50e9, 8),
            source="as H100, with NVLink cut to 400 GB/s (arXiv 2505.09343)",
        ),
        Accelerator(
            *("H100", 80e9, HOPPER, 3.35e12, 450e9, 50e9, 8),
            source="NVIDIA H100 SXM data sheet; DGX H100: 400 Gb/s a GPU",
        ),
        Accelerator(
            *("H200", 141e9, HOPPER, 4.8e12, 450e9, 50e9, 8),
            source="NVIDIA H200 SXM data sheet; DGX H200: 400 Gb/s a GPU",
        ),
        Accelerator(
            *("B200", 180e9, BLACKWELL, 8e12, 900e9, 50e9, 8),
            source="NVIDIA HGX B200 data sheet, 180 GB usable; DGX B200: 400 Gb/s a GPU",
        ),
    )
}


@dataclass(frozen=True)
class Cluster:
    devices: int
    accelerator: Accelerator

    def speed(self, ranks: int) -> float:
        """Bytes per second and device among `ranks` neighbours: inside a node, or as fast as the network."""
        return self.accelerator.link if ranks <= self.accelerator.per_node else self.accelerator.network


def parse_cluster(text: str) -> Cluster:
    """`64xH100`.

    Raises:
        BadInput: not of this form, or an unknown accelerator.
    """
    match = re.fullmatch(r"([1-9][0-9]*)x([A-Za-z0-9]+)", text)
    device = ACCELERATORS.get(match[2].upper()) if match else None
    if device is None:
        raise BadInput(
            f"{text!r} names no devices",
            where="--devices",
            remedy=f"Write COUNTxNAME, such as 64xH100; names: {', '.join(ACCELERATORS)}",
        )
    return Cluster(int(match[1]), device)
