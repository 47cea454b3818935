"""What a model folder says of itself, where nobody can say what was asked of its builder. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from edgekit.builder.lint.facts import ConfigFacts, FolderFacts
from edgekit.builder.lint.finding import Finding
from edgekit.builder.request.asked import Asked, asked_for
from edgekit.builder.spec import BuildSpec

BY_REQUEST = frozenset(
    {
        "accuracy-level", "bits", "block-size", "checkpoint-ignored", "float-embedding",
        "float-matrix", "kv-dtype", "max-length", "option-ignored", "provider",
        "vision-precision", "zero-points",
    }
)  # fmt: skip
"""Findings that compare a folder with the options of its build."""

_DIMENSIONS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "vocab_size": "vocabulary",
}


def claimed(
    facts: FolderFacts, spec: BuildSpec | None, config: Mapping[str, Any] | None,
    *, has_template: bool,
) -> tuple[Asked, bool]:  # fmt: skip
    """The properties to check a folder by, and whether they are those of its build.

    Args:
        spec: of the folder's build.json; None without one.
        config: the source's config.json; None where the source is not at hand.
        has_template: the source has a chat template, or, without a source, the folder.
    """
    # without its config.json it is not known that a source was quantised already
    own = any(matrix.method == "checkpoint" for matrix in facts.matrices) and config is None
    known = spec is not None and not own
    bits = Counter(m.bits for m in facts.matrices if m.kind == "matmul").most_common(1)
    precision = {4: "int4", 8: "int8"}.get(bits[0][0] if bits else 0, "fp32")
    provider = next(iter(facts.config.providers if facts.config else ()), "cpu")
    options = dict(spec.options) if spec else {}
    asked = asked_for(
        spec.precision if spec else precision,
        spec.provider if spec else provider,
        options if spec else options | {"filename": facts.graph_name},
        config or {},
        has_template=has_template,
        **({"context": spec.context} if spec else {}),
        vision=(spec.vision or "") if spec else "",
    )
    return asked, known


def heard(findings: tuple[Finding, ...], *, known: bool) -> tuple[Finding, ...]:
    """The findings that count: those about the request only where the request is known."""
    return tuple(f for f in findings if known or f.name not in BY_REQUEST)


def unlike(
    folder: ConfigFacts, config: Mapping[str, Any], options: Mapping[str, str]
) -> tuple[str, ...]:
    """The dimensions in which a folder and a source differ, one each; those of both are known.

    Args:
        config: the source's config.json.
        options: of the folder's build; `num_hidden_layers` makes it shallower than its source.
    """
    text = config.get("text_config") or config
    found = []
    for key, name in _DIMENSIONS.items():
        wanted, has = options.get(key) or text.get(key), getattr(folder, name)
        if wanted is not None and has is not None and int(wanted) != has:
            found.append(f"{key} is {wanted} there and {has} in the folder")
    return tuple(found)
