"""What the ssh configuration says of one destination, and what of it cannot be honoured. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.errors import UsageError

Values = dict[str, tuple[str, ...]]
"""Keywords in lower case with their values: one for each line of `ssh -G`."""


def parse_dump(text: str) -> Values:
    """Read what `ssh -G` prints."""
    values: Values = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        values[key.lower()] = (*values.get(key.lower(), ()), value)
    return values


@dataclass(frozen=True, slots=True)
class SshSettings:
    """The settings for one destination.

    `tokens` are the % tokens by letter; `defaults` are the values of this OpenSSH without any file;
    `environment` and `home` are for `${NAME}` and `~`.
    """

    named: str  # as the user names it
    values: Values
    defaults: Values = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    home: str = ""

    def one(self, key: str, otherwise: str = "") -> str:
        """The value of a keyword; `none` counts as not set."""
        value = self.values.get(key, (otherwise,))[0]
        return otherwise if value.lower() == "none" else value

    def yes(self, key: str) -> bool:
        """Whether a keyword is set to yes."""
        return self.one(key).lower() in ("yes", "true")

    def names(self, key: str) -> list[str]:
        """A list of algorithms."""
        return [name for name in self.one(key).split(",") if name]

    def told(self, key: str) -> bool:
        """Whether the user's files change a keyword."""
        return self.values.get(key) != self.defaults.get(key)

    @property
    def host(self) -> str:
        """The name or address to connect to."""
        return self.one("hostname", self.named).lower()

    @property
    def port(self) -> int:
        """The port to connect to."""
        return int(self.one("port", "22"))

    @property
    def user(self) -> str:
        """The account."""
        return self.one("user")

    @property
    def known_as(self) -> str:
        """The name to look up in known_hosts."""
        alias = self.one("hostkeyalias")
        return alias or (self.host if self.port == 22 else f"[{self.host}]:{self.port}")

    @property
    def bare_name(self) -> str:
        """The name without its port, asked where `known_as` is not known; empty: not asked."""
        return "" if self.port == 22 or self.one("hostkeyalias") else self.host

    def path(self, key: str, text: str) -> str:
        """Expand `~`, `%` tokens and `${NAME}` of a file name as OpenSSH does.

        Raises:
            UsageError: an account, a token or a variable is unknown.
        """
        if text == "~" or text.startswith("~/"):
            text = self.home + text[1:]
        try:
            text = str(Path(text).expanduser()) if text.startswith("~") else text
        except RuntimeError as error:
            raise UsageError(
                f"{self.named}: {key} {text} cannot be read",
                str(error),
                "write the whole path in the ssh configuration",
            ) from error
        return self.expand(key, text)

    def expand(self, key: str, text: str, more: Mapping[str, str] | None = None) -> str:
        """Expand `%` tokens, `more` among them, and `${NAME}`.

        Raises:
            UsageError: a token or a variable is unknown.
        """
        tokens = {**self.tokens, **(more or {})}

        def replaced(found: re.Match[str]) -> str:
            token, name = found[1], found[2]
            known = tokens if token else self.environment
            if (token or name) in known:
                return known[token or name]
            what = f"the token %{token}" if token else f"the variable ${{{name}}}"
            raise UsageError(
                f"{self.named}: {key} {text} cannot be read",
                f"{what} is not known here",
                "write the value itself in the ssh configuration",
            )

        return re.sub(r"%(.)|\$\{(\w*)\}", replaced, text)

    def files(self, key: str, exists: Callable[[str], bool]) -> list[str]:
        """The files of a keyword that takes several; `ssh -G` does not quote a name with spaces.

        Raises:
            UsageError: the value cannot be told apart into paths.
        """
        words = self.one(key).split(" ") if self.one(key) else []
        found: list[str] = []
        while words:
            for count in range(len(words), 0, -1):
                path = " ".join(words[:count])
                # newer versions of `ssh -G` have expanded it
                if not (path.startswith("/") and exists(path)):
                    path = self.path(key, path)
                if count == 1 or exists(path):
                    break
            if not path.startswith("/"):
                raise UsageError(
                    f"{self.named}: {key} {self.one(key)} cannot be read",
                    f"{path} is no whole path, so a file of host keys could be missed",
                    "write whole paths without spaces in the ssh configuration",
                )
            found.append(path)
            del words[:count]
        return found


# keyword: what of it edgekit cannot do. Keywords that only add comfort are left out on purpose.
_REFUSED: Sequence[tuple[str, Callable[[SshSettings], bool], str]] = (
    ("BindInterface", lambda s: bool(s.one("bindinterface")), "edgekit has BindAddress alone"),
    ("RemoteCommand", lambda s: bool(s.one("remotecommand")), "a push runs commands of its own"),
    (
        "SessionType",
        lambda s: s.values.get("sessiontype", ("default",))[0] != "default",
        "a push runs commands",
    ),
    (
        "PubkeyAuthentication",
        lambda s: s.one("pubkeyauthentication").lower() in ("no", "false", "host-bound-no"),
        "edgekit logs in with keys alone",
    ),
    (
        "PreferredAuthentications",
        lambda s: "publickey" not in s.one("preferredauthentications", "publickey").split(","),
        "edgekit logs in with keys alone",
    ),
)


def check_settings_can_be_honoured(settings: SshSettings) -> None:
    """Refuse by name what edgekit cannot do as the user asks.

    Raises:
        UsageError: the configuration asks for something that edgekit cannot do.
    """
    for keyword, asked, why in _REFUSED:
        if asked(settings):
            value = settings.values[keyword.lower()][0]
            raise UsageError(
                f"{settings.named}: the ssh configuration sets {keyword} {value}",
                f"edgekit cannot honour it: {why}",
                "take it out for this host, for example with a Host of its own for edgekit",
            )
    if not settings.user:
        raise UsageError(
            f"{settings.named}: the ssh configuration names no user",
            next_step="write user@host in fleet.toml, or User in ~/.ssh/config",
        )


def stricter_than_asked(settings: SshSettings) -> str:
    """What the configuration would let pass and edgekit does not: part of a refusal's reason."""
    strict = settings.one("stricthostkeychecking").lower()
    asked = []
    if strict in ("no", "off", "false", "accept-new"):
        asked.append(f"StrictHostKeyChecking {'no' if strict == 'false' else strict}")
    if settings.yes("nohostauthenticationforlocalhost"):
        asked.append("NoHostAuthenticationForLocalhost yes")
    if settings.one("verifyhostkeydns").lower() in ("yes", "true", "ask"):
        asked.append("VerifyHostKeyDNS")
    if not asked:
        return ""
    return f"edgekit does not follow {' and '.join(asked)}: it trusts no key on first use"
