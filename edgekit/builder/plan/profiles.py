"""Device profiles of a plan: size and bandwidth of the memory. Pure.

Decoding one token reads every weight once, therefore memory bandwidth limits the speed. The
bandwidths are bus width x transfer rate from data sheets; no program reaches them.
"""

from __future__ import annotations

import msgspec

_GIB = 2**30

# The same limits as in a bundle's config (`edgekit.bundle.pack`).
_RUNTIME_BYTES = 300 << 20
_PACKED_SHARE = 0.25
_CONTEXT_STEP = 256
_MIN_CONTEXT = 1024

REACHED = (0.55, 0.75)
"""Lower and upper share of the data sheet's bandwidth that decoding typically reaches, from
published tokens/s of llama.cpp, Ollama and ONNX Runtime on the devices below and on servers."""


class DeviceProfile(msgspec.Struct, frozen=True):
    """Memory and bandwidth of a kind of device.

    Attributes:
        name: shown to the user.
        ram_bytes: installed memory.
        usable_share: share of it that a headless Debian leaves to one program.
        bandwidth: of the memory, in bytes per second.
        flops: float32 operations per second of the CPU's cores at their highest clock: cores x
            clock x operations per cycle, from data sheets.
    """

    name: str
    ram_bytes: int
    usable_share: float
    bandwidth: float
    flops: float

    @property
    def usable_bytes(self) -> int:
        """Memory that model, KV cache and runtime share."""
        return int(self.ram_bytes * self.usable_share)


PROFILES: tuple[DeviceProfile, ...] = (
    # LPDDR4X-4267 on 32 bit: 4.267 GT/s x 4 bytes (Raspberry Pi 5 product brief). Four Cortex-A76
    # of 2.4 GHz with two pipes of 128 bits: 16 operations per cycle.
    DeviceProfile("Raspberry Pi 5, 4 GB", 4 * _GIB, 0.85, 17.07e9, 154e9),
    DeviceProfile("Raspberry Pi 5, 8 GB", 8 * _GIB, 0.90, 17.07e9, 154e9),
    DeviceProfile("Raspberry Pi 5, 16 GB", 16 * _GIB, 0.94, 17.07e9, 154e9),
    # 128-bit LPDDR5, 102 GB/s in Super mode, 68 before (NVIDIA Jetson Orin Nano data sheet); a
    # part of the memory is the GPU's. Six Cortex-A78AE of 1.7 GHz: 16 operations per cycle.
    DeviceProfile("Jetson Orin Nano, 8 GB", 8 * _GIB, 0.80, 102e9, 163e9),
    # One channel of DDR5-4800: 4.8 GT/s x 8 bytes (Intel ARK, Processor N150). Four cores of
    # 3.6 GHz, 16 operations per cycle.
    DeviceProfile("Intel N150, 16 GB", 16 * _GIB, 0.94, 38.4e9, 230e9),
    # Two channels of DDR5-5600: 5.6 GT/s x 16 bytes (AMD Ryzen AI 5 340 specifications). Six cores
    # of 2.0 to 4.8 GHz, counted with 3.4 GHz, 32 operations per cycle.
    DeviceProfile("Ryzen AI 5 340, 16 GB", 16 * _GIB, 0.90, 89.6e9, 650e9),
)
"""The devices that a plan lists."""


class DeviceFit(msgspec.Struct, frozen=True):
    """Longest context and speed of a model on a kind of device.

    Attributes:
        device: name of the device profile.
        fits: the model fits with a context of at least 1024 tokens.
        context: longest context that fits, in tokens; 0 where the weights alone do not fit.
        ceiling: tokens per second that the memory bandwidth allows.
        likely: lower and upper tokens per second that are typically reached.
    """

    device: str
    fits: bool
    context: int
    ceiling: float
    likely: tuple[float, float]


def on_device(
    longest: int, model_bytes: int, read: int, kv: int, profile: DeviceProfile, window: int = 0
) -> DeviceFit:
    """Longest context and speed of a model on a kind of device.

    Args:
        longest: longest context of the model itself, in tokens.
        model_bytes: size of graph and data.
        read: bytes of weights that decoding one token reads.
        kv: bytes of keys and values per token of context.
        window: the model's sliding window in tokens, which is reserved in full; 0 without one.
    """
    left = profile.usable_bytes - model_bytes * (1 + _PACKED_SHARE) - _RUNTIME_BYTES
    room = int(left // kv) if kv else longest
    context = max(0, room - room % _CONTEXT_STEP) if room < longest else longest
    if context < window:
        context = 0
    ceiling = profile.bandwidth / read
    return DeviceFit(
        device=profile.name,
        fits=context >= min(_MIN_CONTEXT, longest),
        context=context,
        ceiling=ceiling,
        likely=(REACHED[0] * ceiling, REACHED[1] * ceiling),
    )
