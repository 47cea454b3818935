"""The content parts of a message: its texts and its pictures, as OpenAI's API names them."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit.core import pictures
from edgekit.core.chat.text import Text


class TextPart(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"
):
    """A content part with text."""

    text: Text


class ImageUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture in a `data:` URL. `detail` changes nothing: the device's `image_crops` decides."""

    url: pictures.FromUrl
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrlPart(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image_url"
):
    """A content part with a picture, as OpenAI's SDKs send it."""

    image_url: ImageUrl

    @property
    def data(self) -> bytes:
        """The encoded picture."""
        return self.image_url.url.data


class ImagePart(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image"
):
    """A content part with a picture as a byte string; only CBOR has these."""

    picture: pictures.FromBytes = msgspec.field(name="data")

    @property
    def data(self) -> bytes:
        """The encoded picture."""
        return self.picture.data


Part = TextPart | ImageUrlPart | ImagePart
PARTS: dict[object, type[msgspec.Struct]] = {
    "text": TextPart,
    "image_url": ImageUrlPart,
    "image": ImagePart,
}
