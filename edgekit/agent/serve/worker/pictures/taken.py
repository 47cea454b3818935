"""Decides how much of a picture a device looks at, and how many pictures it keeps. Pure."""

from __future__ import annotations

from math import isqrt

import msgspec

from edgekit.agent.serve.worker.pictures.rows import row_count
from edgekit.core.payloads import ImagesTaken
from edgekit.core.pictures import allowed

SMALL_BYTES = 8 * 10**9  # of memory; a device with less looks at one crop
SMALL_CROPS, USUAL_CROPS = 1, 4
CONTEXT_SHARE = 0.5  # of a slot, that one picture may take where nobody said how many crops


def images_taken(crops: int, per_prompt: int, memory_bytes: int) -> ImagesTaken:
    """Return what a device takes of pictures.

    Args:
        crops: the setting `image_crops`; 0 goes by the memory.
        per_prompt: the setting `images_per_prompt`; 0 is the default.
        memory_bytes: of the device.
    """
    crops = crops or (SMALL_CROPS if memory_bytes < SMALL_BYTES else USUAL_CROPS)
    side = isqrt(crops)
    return ImagesTaken(crops, row_count(side, side), *allowed(per_prompt))


def within(taken: ImagesTaken, context_length: int) -> ImagesTaken:
    """Return the same with one crop, if a picture would take more of a slot than it should.

    Args:
        taken: what the memory allows.
        context_length: of a slot, in tokens.
    """
    if taken.tokens <= CONTEXT_SHARE * context_length:
        return taken
    tokens = row_count(SMALL_CROPS, SMALL_CROPS)
    return msgspec.structs.replace(taken, crops=SMALL_CROPS, tokens=tokens)


def kept_rows(taken: ImagesTaken, slots: int, max_length: int) -> int:
    """Return the rows of so many pictures as all slots can hold, each as long as any can be.

    Args:
        taken: what the device takes.
        slots: of the decoder.
        max_length: of a slot, in tokens.
    """
    return slots * min(max_length, taken.per_prompt * row_count(taken.crops, 1))
