"""What a bundle holds, for its bill of materials."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Contents(msgspec.Struct, frozen=True):
    """The components of a bundle.

    Attributes:
        name, version: of the bundle.
        build_id: the model's; may be empty.
        files: the model's files, name -> sha256 (hex).
        sources: package URLs of the model's sources.
        agent: sha256 (hex) of the agent layer.
        runtime: (name, version) of every wheel of the runtime layers.
        tools: package URLs of the tools that built the model.
    """

    name: str
    version: str
    build_id: str
    files: Mapping[str, str]
    sources: tuple[str, ...]
    agent: str
    runtime: tuple[tuple[str, str], ...]
    tools: tuple[str, ...]
