"""Text of a requester."""

from __future__ import annotations

from typing import Annotated

import msgspec

# No text of a person has a NUL, and a library in C that a text reaches would cut it off there.
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$")]
