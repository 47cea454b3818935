"""What was asked for, and which recipes answer it. Pure: decided before anything is looked at, and
once config.json is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.request.options import PATH_KEYS, parse_options
from edgekit.builder.request.recipe import AUTO, Recipe, default_recipe, ladder, recipe_named
from edgekit.builder.spec import DEFAULT_CONTEXT, check_target
from edgekit.errors import UsageError

# An option that says how to quantise leaves nothing for a recipe to decide.
_QUANTISING = frozenset(
    {
        "accuracy_level", "algo_config", "block_size", "is_symmetric", "matmul_mixed_precision",
        "nodes_to_exclude", "op_types_to_quantize", "use_qdq",
    }
)  # fmt: skip


ROUTES = ("auto", "low-memory", "stock")
"""The routes through the builder (docs/build.md); what comes out is equal byte for byte."""


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
        route: the route through the builder: `auto`, `low-memory` or `stock`.
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
    route: str = "auto"
    trust_remote_code: bool = False

    @property
    def asked(self) -> str:
        """Which recipe was asked for, as the record keeps it."""
        budget = f" {self.budget_bytes}" if self.budget_bytes else ""
        return f"{self.recipe or ''}{budget}"


class CheckedRequest(msgspec.Struct, frozen=True):
    """A request that holds together.

    Attributes:
        given: the builder's options, as they were spelled.
        recipe: the one that was named.
        precision: what to build where no other recipe is chosen.
        notes: for the user, one line each.
    """

    given: dict[str, str]
    recipe: Recipe | None
    precision: str
    notes: tuple[str, ...]

    @property
    def plain(self) -> dict[str, str]:
        """The options whose values are not paths."""
        return {key: value for key, value in self.given.items() if key not in PATH_KEYS}


def check_request(request: BuildRequest) -> CheckedRequest:
    """Check a request against itself.

    Raises:
        UsageError: it contradicts itself, or names what does not exist.
    """
    check_route(request.route)
    if request.budget_bytes is not None and request.recipe != AUTO:
        raise UsageError("--budget goes with --recipe auto")
    given = parse_options(request.options)
    recipe = recipe_named(request.recipe) if request.recipe not in (None, AUTO) else None
    if recipe:
        _refuse_contradiction(request, recipe, given)
    if request.recipe == AUTO and (request.precision or _QUANTISING & given.keys()):
        raise UsageError(
            "--recipe auto chooses precision and quantisation itself",
            next_step="leave -p and the quantising -x options out, or name a recipe",
        )
    precision = request.precision or (recipe.precision if recipe else "int4")
    return CheckedRequest(given, recipe, precision, check_target(precision, request.provider))


def check_route(route: str) -> None:
    """Refuse what is not the name of a route through the builder.

    Raises:
        UsageError: names those that exist.
    """
    if route not in ROUTES:
        raise UsageError(
            f"there is no route through the builder called {route}",
            next_step=f"use one of {', '.join(ROUTES)} with --path, or leave it out",
        )


def recipes_for(
    request: BuildRequest, checked: CheckedRequest, config: dict[str, Any]
) -> tuple[tuple[Recipe | None, ...], tuple[str, ...]]:
    """The recipes to make or to try, None for options that were spelled out; and why.

    Args:
        config: config.json of the model; empty for a GGUF file.
    """
    adapter = "adapter_path" in checked.given
    if request.recipe == AUTO:
        return ladder(config, adapter=adapter), ()
    if (
        checked.recipe is None
        and checked.precision == "int4"
        and not _QUANTISING & checked.given.keys()
    ):
        choice = default_recipe(config, adapter=adapter)
        return (choice.recipe,), (f"recipe {choice.recipe.name}: {choice.why}",)
    return (checked.recipe,), ()


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


def refuse_unloadable(checked: CheckedRequest, config: dict[str, Any]) -> None:
    """onnxruntime-genai 0.18.0 makes files of a tied model that it cannot load itself.

    Raises:
        UsageError: this would be one.
    """
    if not config.get("tie_word_embeddings") or checked.given.get("shared_embeddings") == "false":
        return
    options = checked.recipe.options if checked.recipe else checked.given
    if checked.precision != "int4" or options.get("algo_config", "default") != "default":
        return
    asymmetric = options.get("is_symmetric") == "false"
    head = "last_matmul:int8" in options.get("matmul_mixed_precision", "")
    if asymmetric or head:
        what = "be asymmetric int4" if asymmetric else "have a head in int8"
        raise UsageError(
            f"a model with tied embeddings cannot {what} by the default method",
            why="the builder makes a file that the runtime does not load",
            next_step="use --recipe k-quant, which has zero points too"
            if asymmetric
            else "use --recipe k-quant-head8 or k-quant-mixed",
        )
