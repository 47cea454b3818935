"""Reading bytes from outside: what that raises. Alone here, because every part reads."""

from __future__ import annotations

import msgspec

# UnicodeDecodeError is a ValueError.
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
