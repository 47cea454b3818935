"""Loads a device's own scoring: the factory that `logits_processors` of agent.toml names."""

from __future__ import annotations

import importlib
import sys

from edgekit.agent.serve.worker.processors import ProcessorFactory
from edgekit.core.config import factory_of
from edgekit.errors import UsageError


def load_factory(text: str) -> ProcessorFactory | None:
    """The factory of `[/FOLDER/]package.module:factory`; None for an empty text.

    Raises:
        UsageError: it cannot be imported, or is none.
    """
    if not text:
        return None
    folder, module, name = factory_of(text)
    if folder and folder not in sys.path:
        sys.path.append(folder)  # behind the release's own
    try:
        factory: ProcessorFactory = getattr(importlib.import_module(module), name)
        if not callable(factory):
            raise TypeError(f"{name} is not callable")
    except Exception as error:  # it is somebody's own code
        raise UsageError(
            f"logits_processors {text!r} cannot be loaded",
            f"{type(error).__name__}: {error}",
            "mend it on the device, or take the key out of fleet.toml and push",
        ) from error
    return factory
