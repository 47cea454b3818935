"""`build.toml`: the flags of `edgekit build` in a file; a flag on the command line wins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from edgekit.builder.request.recipe import AUTO
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.spec import DEFAULT_CONTEXT
from edgekit.core.tomlfile import convert, read_table
from edgekit.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?i?B)?")
_UNITS = {"k": 1, "M": 2, "G": 3, "T": 4}


class BuildFile(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """What a `build.toml` may hold: the long names of the flags, and two tables.

    Attributes:
        extra_options: the builder's own options, key = value.
        thresholds: changes to the gate's profile, name = number.
    """

    model: str | None = None
    output: str | None = None
    precision: str | None = None
    execution_provider: str | None = None
    cache_dir: str | None = None
    revision: str | None = None
    recipe: str | None = None
    budget: str | None = None
    context: Annotated[int, msgspec.Meta(ge=1)] | None = None
    gate: str | None = None
    host: bool | None = None
    trust_remote_code: bool | None = None
    vision_precision: str | None = None
    extra_options: dict[str, str | int | float | bool] = {}
    thresholds: dict[str, float] = {}

    @property
    def option_pairs(self) -> list[str]:
        """`KEY=VALUE` as on the command line; TOML's booleans in the builder's spelling."""
        return [
            f"{key}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in self.extra_options.items()
        ]

    def pairs_with(self, given: Sequence[str]) -> list[str]:
        """The same and those of the command line, which replace the file's of the same key."""
        replaced = {pair.partition("=")[0].strip() for pair in given}
        kept = [pair for pair in self.option_pairs if pair.partition("=")[0] not in replaced]
        return [*kept, *given]

    def merged(self, flags: BuildFile) -> BuildFile:
        """This file's values with the command line's over them; both tables stay the file's.

        The file's revision belongs to the file's model, and its budget to the recipe `auto`:
        a flag that names another model or another recipe drops them.
        """
        given = {
            name: value
            for name, value in msgspec.structs.asdict(flags).items()
            if value not in (None, "", {})
        }
        own_model = self.model in (None, flags.model or self.model)
        kept = msgspec.structs.replace(
            self,
            revision=self.revision if own_model else None,
            budget=self.budget if flags.recipe in (None, AUTO) else None,
        )
        return msgspec.structs.replace(kept, **given)

    def request(
        self, options: Sequence[str], thresholds: Sequence[str], route: str, *, gated: bool
    ) -> BuildRequest:
        """The request that these values make.

        Args:
            options: `KEY=VALUE` pairs of the builder, file and command line together.
            thresholds: `NAME=NUMBER` pairs of the command line, over the file's.
            route: through the builder: `auto`, `low-memory` or `stock`.
            gated: whether the model goes through the gate.

        Raises:
            UsageError: no model is named, or a size or threshold cannot be read.
        """
        if self.model is None:
            raise UsageError("no model is named", next_step="name one with -m, or in a build.toml")
        return BuildRequest(
            model=self.model,
            out=Path(self.output or ""),
            precision=self.precision,
            provider=self.execution_provider or "cpu",
            options=tuple(options),
            revision=self.revision,
            hub_cache=self.hub_cache,
            recipe=self.recipe,
            budget_bytes=parse_size(self.budget) if self.budget else None,
            context=self.context or DEFAULT_CONTEXT,
            gate=(self.gate or "strict") if gated else None,
            thresholds={**self.thresholds, **parse_thresholds(thresholds)},
            route=route,
            trust_remote_code=bool(self.trust_remote_code),
            vision_precision=self.vision_precision,
        )

    @property
    def hub_cache(self) -> Path | None:
        """The folder for downloads; None is Hugging Face's own cache."""
        return Path(self.cache_dir) if self.cache_dir else None


def load(path: Path | None) -> BuildFile:
    """The file, or one that says nothing.

    Relative paths in it are taken from the folder the command runs in, as flags are.

    Raises:
        UsageError: it cannot be read, or has a key that is no flag.
    """
    if path is None:
        return BuildFile()
    try:
        table, text = read_table(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UsageError(
            f"there is no {path}",
            next_step="name a build.toml, or give -m and -o",
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be used",
            why=error.strerror or str(error),
            next_step="name a build.toml, or give -m and -o",
        ) from error
    return convert(table, BuildFile, str(path), text)


def parse_size(text: str) -> int:
    """`2.5GB` (powers of ten), `2GiB` (powers of two) or a plain number of bytes.

    Raises:
        UsageError: it is none of them.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", next_step="write it like 2.5GB or 2GiB")
    unit = match[2] or "B"
    base = 1024 if "i" in unit else 1000
    return int(float(match[1]) * base ** _UNITS.get(unit[0], 0))


def parse_thresholds(pairs: Sequence[str]) -> dict[str, float]:
    """`["mean_kl=0.1", …]` as a dictionary.

    Raises:
        UsageError: a pair is not NAME=NUMBER.
    """
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UsageError(
                f"the threshold {pair!r} is not NAME=NUMBER",
                next_step="write it like --threshold kl_mean=0.1",
            ) from None
    return found
