"""What is decided before anything is made: the source, and which models are candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.optionfiles import hash_option_files
from edgekit.builder.options import PATH_KEYS, check_options, parse_options
from edgekit.builder.progress import Report
from edgekit.builder.recipe import AUTO, Recipe, default_recipe, ladder, recipe_named
from edgekit.builder.source import Found, find
from edgekit.builder.spec import (
    DEFAULT_CONTEXT,
    BuildSpec,
    Precision,
    Provider,
    check_target,
)
from edgekit.errors import UsageError

# An option that says how to quantise leaves nothing for a recipe to decide.
_QUANTISING = frozenset(
    {
        "accuracy_level", "algo_config", "block_size", "is_symmetric", "matmul_mixed_precision",
        "nodes_to_exclude", "op_types_to_quantize", "use_qdq",
    }
)  # fmt: skip


class BuildRequest(msgspec.Struct, frozen=True):
    """What was asked for, as it stands on the command line.

    Attributes:
        model: a Hugging Face folder, a GGUF file or `ORG/NAME`.
        out: the folder to make.
        precision, provider: the builder's `-p` and `-e`; no precision is the recipe's, else int4.
        options: `KEY=VALUE` pairs of the builder's `--extra_options`.
        revision: of a Hugging Face name; None is its main branch.
        hub_cache: folder for downloads; None is Hugging Face's own cache.
        recipe: by name, or `auto`; None is the model's own where no option says how to quantise.
        budget_bytes: with `auto`, how large the model may be.
        context: cap for the default length of prompt and answer, in tokens.
        gate: the profile of thresholds; None leaves the model untested, and marks it.
        thresholds: changes to the profile.
        path: the way through the builder: `auto`, `low-memory` or `stock`.
        trust_remote_code: run code out of the model's repository.
    """

    model: str
    out: Path
    precision: str | None = None
    provider: str = "cpu"
    options: tuple[str, ...] = ()
    revision: str | None = None
    hub_cache: Path | None = None
    recipe: str | None = None
    budget_bytes: int | None = None
    context: int = DEFAULT_CONTEXT
    gate: str | None = "strict"
    thresholds: dict[str, float] = {}
    path: str = "auto"
    trust_remote_code: bool = False

    @property
    def asked(self) -> str:
        """Which recipe was asked for, as the record keeps it."""
        budget = f" {self.budget_bytes}" if self.budget_bytes else ""
        return f"{self.recipe or ''}{budget}"


class Candidate(msgspec.Struct, frozen=True):
    """One model that may become the result.

    Attributes:
        recipe: its name; empty when the options were spelled out.
        spec: what decides its bytes.
        options: the builder's, with paths as they are on this machine.
    """

    recipe: str
    spec: BuildSpec
    options: dict[str, str]


class Prepared(msgspec.Struct, frozen=True):
    """The decisions.

    Attributes:
        found: the source.
        candidates: in the order they are tried; one, unless the recipe is `auto`.
        reads: files and folders that options name.
        notes: for the user, one line each.
    """

    found: Found
    candidates: tuple[Candidate, ...]
    reads: tuple[Path, ...]
    notes: tuple[str, ...]


def prepare(request: BuildRequest, lock_digest: str, report: Report) -> Prepared:
    """Check the request and find its source; nothing but a download is done.

    Args:
        lock_digest: of the toolchain.

    Raises:
        UsageError: the request cannot be met as it stands.
        UnreachableError: the model is on the hub and the hub does not answer.
        VerificationError: a downloaded file is not what the hub says.
    """
    given = _options(request)
    option_files = hash_option_files(given)
    recipe = recipe_named(request.recipe) if request.recipe not in (None, AUTO) else None
    if recipe:
        _refuse_contradiction(request, recipe, given)
    precision = request.precision or (recipe.precision if recipe else "int4")
    notes = check_target(precision, request.provider)
    found = find(request.model, request.revision, request.hub_cache, report)
    config = read_config(found)
    if request.recipe == AUTO:
        if request.precision or _QUANTISING & given.keys():
            raise UsageError(
                "--recipe auto chooses precision and quantisation itself",
                next_step="leave -p and the quantising -x options out, or name a recipe",
            )
        recipes: tuple[Recipe | None, ...] = ladder(config)
    elif recipe is None and precision == "int4" and not _QUANTISING & given.keys():
        choice = default_recipe(config)
        recipes = (choice.recipe,)
        notes += (f"recipe {choice.recipe.name}: {choice.why}",)
    else:
        recipes = (recipe,)
    if config.get("tie_word_embeddings"):
        _refuse_unloadable(recipe, given, precision)
    candidates = []
    for each in recipes:
        options = check_options({**(each.options if each else {}), **_plain(given)})
        options |= {"hf_remote": "true"} if request.trust_remote_code else {}
        spec = BuildSpec(
            source=found.source,
            precision=msgspec.convert(each.precision if each else precision, Precision),
            provider=msgspec.convert(request.provider, Provider),
            # a path says nothing about the bytes, and something about the machine
            options=options,
            option_files=option_files,
            toolchain=lock_digest,
            context=request.context,
        )
        paths = {key: given[key] for key in option_files}
        candidates.append(Candidate(each.name if each else "", spec, options | paths))
    reads = tuple(Path(given[key]) for key in option_files)
    return Prepared(found, tuple(candidates), reads, notes)


def read_config(found: Found) -> dict[str, Any]:
    """config.json of the source; empty for a GGUF file, whose shape is in its header."""
    path = found.path / "config.json"
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UsageError(f"{found.source.name} has no readable config.json", str(error)) from error


def _options(request: BuildRequest) -> dict[str, str]:
    if request.budget_bytes is not None and request.recipe != AUTO:
        raise UsageError("--budget goes with --recipe auto")
    return parse_options(request.options)


def _plain(options: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key not in PATH_KEYS}


def _refuse_contradiction(request: BuildRequest, recipe: Recipe, given: dict[str, str]) -> None:
    if request.precision and request.precision != recipe.precision:
        raise UsageError(
            f"recipe {recipe.name} is {recipe.precision}, not {request.precision}",
            next_step="leave -p out, or name another recipe",
        )
    if both := sorted(recipe.options.keys() & given.keys()):
        raise UsageError(
            f"recipe {recipe.name} sets {both[0]} itself",
            next_step=f"leave -x {both[0]} out, or spell all options out without --recipe",
        )


def _refuse_unloadable(recipe: Recipe | None, given: dict[str, str], precision: str) -> None:
    """onnxruntime-genai 0.18.0 makes a file of a tied model that it cannot load itself."""
    options = recipe.options if recipe else given
    if (
        precision == "int4"
        and options.get("is_symmetric") == "false"
        and options.get("algo_config", "default") == "default"
    ):
        raise UsageError(
            "a model with tied embeddings cannot be asymmetric int4 by the default method",
            why="the builder makes a file that the runtime does not load",
            next_step="use --recipe k-quant, which has zero points too",
        )
