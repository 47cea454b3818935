"""The specification of a build, its build id, and the record of a finished build.

Pure: no file, clock or process is touched here. `BuildSpec` holds everything that the output
depends on. `build_id` is the digest of its canonical JSON: same id, same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from edgekit.core.buildinfo import BuildInfo, GateOutcome
from edgekit.errors import UsageError

Precision = Literal["int4", "int8", "fp16", "fp32"]
Provider = Literal["cpu", "cuda", "dml", "webgpu"]
VisionPrecision = Literal["fp32", "int8"]
SourceKind = Literal["hub", "folder", "gguf"]

# The pairs that the locked builder lists as valid in the banner that it prints first, plus FP16 on
# CPU, which it also builds: slow, but half the size of FP32.
VALID_TARGETS: dict[str, tuple[str, ...]] = {
    "int4": ("cpu", "cuda", "dml", "webgpu"),
    "int8": ("cpu", "cuda", "webgpu"),
    "fp16": ("cpu", "cuda", "dml"),
    "fp32": ("cpu", "cuda"),
}

DEFAULT_CONTEXT = 4096
"""Default cap for `search.max_length`, in tokens. The builder writes the model's whole context
there, and a runtime reserves KV memory for that length: 103 GB for Phi-3.5-mini."""

FP16_ON_CPU_NOTE = (
    "fp16 on cpu is slow: the runtime has no grouped attention for it "
    "(about a sixth of the speed of int4); use int4 or int8 unless size alone matters"
)


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The weights that a build starts from, identified by content.

    Attributes:
        kind: a Hugging Face repository, a local Hugging Face folder or a GGUF file.
        name: `ORG/NAME`, or the last part of the local path. Never a whole path: a record says
            nothing about the machine that made it.
        revision: the commit of a Hugging Face repository, else empty.
        files: relative path -> sha256 (hex) of every file that the builder may read.
    """

    kind: SourceKind
    name: str
    revision: str
    files: dict[str, str]


class BuildSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides the bytes of the output.

    Attributes:
        source: the weights, tokenizer and config that the build reads.
        precision: the builder's `-p`.
        provider: the builder's `-e`.
        options: the builder's `--extra_options`, checked and in canonical spelling.
        option_files: option whose value is a path -> relative path -> sha256 (hex) of each file
            there.
        context: cap for `search.max_length`, in tokens.
        toolchain: sha256 (hex) of the lock file that the toolchain is installed from.
        steps: version of edgekit's own part of the build, raised when that changes the output in
            a way that `told` does not show.
        vision: precision of the vision part; unset for a model without pictures.
        told: sha256 (hex) of the settings that the builder is given in place of the source's; of a
            GGUF file also of what is read out of its header. Unset where it gets the source's.
    """

    source: Source
    precision: Precision
    provider: Provider
    options: dict[str, str]
    option_files: dict[str, dict[str, str]]
    toolchain: str
    context: int = DEFAULT_CONTEXT
    steps: int = 4
    vision: VisionPrecision | msgspec.UnsetType = msgspec.UNSET
    told: str | msgspec.UnsetType = msgspec.UNSET

    def build_id(self) -> str:
        """Sha256 (hex) of the canonical JSON: keys sorted, no spaces, UTF-8."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class GateSummary(GateOutcome, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gate's result in short; the whole report is in `gate.json` beside build.json.

    Attributes:
        thresholds: sha256 (hex) of the thresholds' canonical JSON.
        mean_kl: mean KL divergence to full precision, in nats per token.
    """

    profile: str
    thresholds: str
    passed: bool
    mean_kl: float


class BuildRecord(BuildInfo, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `build.json`: the spec, the files that came out, and the tools that made them.

    Its `build_id` is `spec.build_id()`, repeated for tools that do not compute it.

    Attributes:
        spec: everything that decided the bytes.
        tools: package -> version.
        seconds: run time of the model builder; differs from build to build.
        recipe: the recipe's name; empty when the user spelled the options out.
        asked: the recipe as the user requested it: a name, `auto`, `auto BYTES`, or empty.
        route: `low-memory` or `stock`; both write the same bytes. Its key in build.json is `path`.
        isolation: `container` or `host`.
        image: digest of the container image; empty for a build on the host.
        gate: the gate's summary; None when the model was not tested.
        format: version of this record.
    """

    spec: BuildSpec
    tools: dict[str, str]
    seconds: float
    recipe: str = ""
    asked: str = ""
    route: str = msgspec.field(default="", name="path")
    isolation: str = "host"
    image: str = ""
    gate: GateSummary | None = None
    format: int = 2

    @property
    def trust_remote_code(self) -> bool:
        """Whether the build ran code from the model's repository."""
        return self.spec.options.get("hf_remote") == "true"


def check_target(precision: str, provider: str) -> tuple[str, ...]:
    """Refuse a precision and provider that the builder does not support; return notes for the user.

    Raises:
        UsageError: an unknown precision or provider, or a pair that the builder does not support.
    """
    if precision not in VALID_TARGETS:
        raise UsageError(
            f"unknown precision {precision}",
            next_step=f"use one of {', '.join(VALID_TARGETS)} with -p",
        )
    providers = sorted({name for names in VALID_TARGETS.values() for name in names})
    if provider not in providers:
        raise UsageError(
            f"unknown execution provider {provider}",
            next_step=f"use one of {', '.join(providers)} with -e",
        )
    if provider not in VALID_TARGETS[precision]:
        fitting = [name for name, where in VALID_TARGETS.items() if provider in where]
        raise UsageError(
            f"the model builder does not make {precision} for {provider}",
            next_step=f"for {provider} use -p {' or '.join(fitting)}",
        )
    return (FP16_ON_CPU_NOTE,) if (precision, provider) == ("fp16", "cpu") else ()
