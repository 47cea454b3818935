"""Rules for the graphs beside the text part: the one that sees, and the one that embeds. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.builder.lint.facts import FolderFacts
from edgekit.builder.lint.finding import Finding, listed, refuse
from edgekit.builder.request.asked import Asked

_VISION = "vision.onnx"
_GRAPHS = (_VISION, "embedding.onnx")


def parts(facts: FolderFacts, asked: Asked) -> Iterator[Finding]:
    """Findings about the graphs that genai_config.json names beside the decoder's."""
    for name, part in sorted(facts.parts.items()):
        if name not in facts.files:
            yield refuse("file-missing", f"{name} is missing", name, "a file", "none")
        if part.broken:
            yield refuse(
                "graph-broken", f"{name} has missing connections, no runtime loads it",
                listed(part.broken), "none", str(len(part.broken)),
            )  # fmt: skip
        if part.not_finite:
            yield refuse(
                "weights-not-finite", f"weights of {name} are not numbers",
                listed([tensor for tensor, _ in part.not_finite]), "numbers",
                f"{sum(count for _, count in part.not_finite)} NaN or infinite",
            )  # fmt: skip
    lost = [name for name in _GRAPHS if name not in facts.parts]
    if asked.vision and lost:
        yield refuse(
            "file-missing", "genai_config.json names no graph of that kind", listed(lost),
            "a section of model", "none",
        )  # fmt: skip
    elif asked.vision and _VISION in facts.parts and not facts.unreadable.get(_VISION):
        found = "int8" if facts.parts[_VISION].bits == (8,) else "fp32"
        if facts.parts[_VISION].bits not in ((), (8,)) or found != asked.vision:
            bits = facts.parts[_VISION].bits
            yield refuse(
                "vision-precision", "the vision part has another precision than requested",
                _VISION, asked.vision, f"{listed([str(b) for b in bits])} bits" if bits else found,
            )  # fmt: skip
