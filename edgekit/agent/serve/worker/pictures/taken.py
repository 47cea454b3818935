"""Decides how much of a picture a device looks at, and how many pictures it keeps. Pure."""

from __future__ import annotations

import msgspec

from edgekit.agent.serve.worker.pictures.family import Encode, VisionFamily, places
from edgekit.core.pictures import allowed, send_side
from edgekit.core.protocol.payloads import ImagesTaken

SMALL_BYTES = 8 * 10**9  # of memory; a device with less looks at one crop
SMALL_CROPS, USUAL_CROPS = 1, 4
CONTEXT_SHARE = 0.5  # of a slot, that one picture may take where nobody said how many crops


SQUARE = 1000  # pixels of a side: any square has the same grid


def images_taken(
    crops: int, per_prompt: int, memory_bytes: int, family: VisionFamily, encode: Encode
) -> ImagesTaken:
    """Return what a device takes of pictures.

    Args:
        crops: the setting `image_crops`; 0 goes by the memory, and is no more than the model's
            own processor takes.
        per_prompt: the setting `images_per_prompt`; 0 is the default.
        memory_bytes: of the device.
        family: the model's.
        encode: returns the tokens of a text of control tokens.
    """
    by_memory = SMALL_CROPS if memory_bytes < SMALL_BYTES else USUAL_CROPS
    crops = crops or min(by_memory, family.usual)
    crops = family.crops(crops)
    tokens = places(family.grid(SQUARE, SQUARE, crops), encode)
    return ImagesTaken(crops, tokens, *allowed(per_prompt), send_side(crops, family.side))


def within(
    taken: ImagesTaken, context_length: int, family: VisionFamily, encode: Encode
) -> ImagesTaken:
    """Return the same with one crop, if a picture would take more of a slot than it should.

    Args:
        taken: what the memory allows.
        context_length: of a slot, in tokens.
        family: the model's.
        encode: returns the tokens of a text of control tokens.
    """
    if taken.tokens <= CONTEXT_SHARE * context_length:
        return taken
    tokens = places(family.grid(SQUARE, SQUARE, SMALL_CROPS), encode)
    side = send_side(SMALL_CROPS, family.side)
    return msgspec.structs.replace(taken, crops=SMALL_CROPS, tokens=tokens, side=side)


def kept_rows(taken: ImagesTaken, slots: int, max_length: int, family: VisionFamily) -> int:
    """Return the rows of so many pictures as all slots can hold, each as long as any can be.

    Args:
        taken: what the device takes.
        slots: of the decoder.
        max_length: of a slot, in tokens.
        family: the model's.
    """
    return slots * min(max_length, taken.per_prompt * family.most_rows(taken.crops))
