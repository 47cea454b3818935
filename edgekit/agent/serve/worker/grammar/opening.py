"""Loads llguidance and a model's token table, where the device has the library and the memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from importlib.util import find_spec

from edgekit.agent.serve.worker.decoder.memory import free_bytes
from edgekit.agent.serve.worker.grammar.grammars import Compiler, NoCompilerError
from edgekit.tokens.table import TokenTable

GLIBC = (2, 31)  # of the library's wheels
TABLE_BYTES = 400  # for each token; 265 were measured with SmolLM2
GRAMMARS_BYTES = 32 << 20  # for what is compiled


def serves_grammars() -> bool:
    """Whether this device can load llguidance; it is not loaded."""
    version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[2]
    parts = tuple(int(part) for part in version.split(".") if part.isdigit())
    return parts >= GLIBC and find_spec("llguidance") is not None


def open_compiler(
    table: Callable[[int], TokenTable],
    vocabulary: int,
    ends: Collection[int],
    free: Callable[[], int] = free_bytes,
) -> Compiler:
    """Load the library and make its table of the model's tokens.

    Args:
        table: returns what is to be known of so many tokens; it raises ValueError if no grammar
            can follow them.
        vocabulary: how many logits the model has.
        ends: tokens that end an answer.
        free: returns the bytes of memory that are free.

    Raises:
        NoCompilerError: the device lacks the library, or the memory; or no grammar can be followed
            with this kind of tokenizer.
    """
    if not serves_grammars():
        text = f"this device has no llguidance, which needs glibc {GLIBC[0]}.{GLIBC[1]}"
        raise NoCompilerError("unsupported_parameter", text)
    needed, left = TABLE_BYTES * vocabulary + GRAMMARS_BYTES, free()
    if left < needed:
        text = f"the first grammar takes {needed / 1e6:.0f} MB; {left / 1e6:.0f} MB are free"
        raise NoCompilerError("out_of_memory", text)
    # Loaded here: a device that is asked for no grammar has its memory for itself.
    from edgekit.agent.serve.worker.grammar.compiler import TokenCompiler  # noqa: PLC0415  as above

    try:
        return TokenCompiler(table(vocabulary), ends)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is one of these
        text = f"no grammar can be followed with this model's tokenizer: {error}"
        raise NoCompilerError("unsupported_parameter", text) from error
