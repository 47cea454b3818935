"""The class of a device's hardware: what decides whether a release that works on one device works
on another. Pure.

A class is platform, instruction set and memory, such as `linux/arm64 dotprod 4GB`. A rollout tries
a release on one device of each class first.
"""

from __future__ import annotations

from edgekit.fleet.facts import DeviceFacts

# The flags that change which kernels onnxruntime's MLAS chooses, as /proc/cpuinfo spells them.
ISA_FLAGS = {
    "linux/amd64": ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"),
    "linux/arm64": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sme"),
}
# From the best down: the name of a level, and the flags that it needs.
_LEVELS = {
    "linux/amd64": (
        ("amx", {"amx_int8", "avx512_vnni", "avx512f"}),
        ("avx512-vnni", {"avx512_vnni", "avx512f"}),
        ("avx512", {"avx512f", "avx2"}),
        ("avx-vnni", {"avx_vnni", "avx2"}),
        ("avx2", {"avx2", "fma"}),
        ("avx", {"avx"}),
    ),
    "linux/arm64": (
        ("i8mm", {"i8mm", "asimddp"}),
        ("dotprod", {"asimddp"}),
        ("asimd", {"asimd"}),
    ),
}
_SMALLEST_BYTES = 1 << 29
# The kernel and the GPU keep some of a module's memory: a "4 GB" Raspberry Pi reports 3.7 to 3.9.


def isa_flags(facts: DeviceFacts) -> list[str]:
    """The CPU flags of a device that matter for a model's speed."""
    has = set(facts.cpu_flags.split())
    return [flag for flag in ISA_FLAGS.get(facts.platform, ()) if flag in has]


def isa_level(facts: DeviceFacts) -> str:
    """The best instruction set of a device that the runtime has kernels for; `base` below all."""
    has = set(facts.cpu_flags.split())
    if not has:
        return "unknown-isa"
    levels = _LEVELS.get(facts.platform, ())
    return next((name for name, needs in levels if needs <= has), "base")


def ram_class(ram_bytes: int) -> str:
    """The size of memory that the device was sold with: the next power of two in GiB."""
    size = _SMALLEST_BYTES
    while size < ram_bytes:
        size *= 2
    return f"{size >> 30}GB" if size >= 1 << 30 else f"{size >> 20}MB"


def hardware_class(facts: DeviceFacts) -> str:
    """The class of a device's hardware, such as `linux/amd64 avx512-vnni 16GB`."""
    return f"{facts.platform} {isa_level(facts)} {ram_class(facts.ram_bytes)}"
