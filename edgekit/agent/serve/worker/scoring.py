"""Loads a device's custom scoring: the factory that `logits_processors` in agent.toml names."""

from __future__ import annotations

import importlib
import sys

from edgekit.agent.serve.worker.processors import ProcessorFactory
from edgekit.core.config import factory_of
from edgekit.errors import UsageError


def load_factory(text: str) -> ProcessorFactory | None:
    """Load the factory that `[/FOLDER/]package.module:factory` names; None for an empty text.

    Raises:
        UsageError: the name cannot be imported, or is not callable.
    """
    if not text:
        return None
    folder, module, name = factory_of(text)
    if folder and folder not in sys.path:
        sys.path.append(folder)  # after the release's own folders
    try:
        factory: ProcessorFactory = getattr(importlib.import_module(module), name)
        if not callable(factory):
            raise TypeError(f"{name} is not callable")
    except Exception as error:  # the device owner's code may raise anything
        raise UsageError(
            f"logits_processors {text!r} cannot be loaded",
            f"{type(error).__name__}: {error}",
            "repair it on the device, or remove the key from fleet.toml and push again",
        ) from error
    return factory
