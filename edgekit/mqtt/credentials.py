"""The password for a broker, read from its file."""

from __future__ import annotations

from pathlib import Path

from edgekit.core.config import BrokerConfig
from edgekit.errors import EdgekitError


def read_password(broker: BrokerConfig) -> str | None:
    """Read the password, None where the broker has none; raises EdgekitError."""
    if not broker.password_file:
        return None
    try:
        return Path(broker.password_file).read_text("utf-8").strip()
    except UnicodeDecodeError as error:
        raise EdgekitError(
            "the broker's password cannot be read",
            f"{broker.password_file} is not UTF-8 text: {error}",
            "password_file in [broker] must hold the password as UTF-8 text",
        ) from error
    except OSError as error:
        raise EdgekitError(
            "the broker's password cannot be read",
            str(error),
            "password_file in [broker] must name a file that this account may read",
        ) from error
