"""The request of a build, its check, and the recipes that follow from it. Pure.

`check_request` needs the request alone; `recipes_for` and `refuse_unloadable` need config.json too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.request.options import PATH_KEYS, parse_options
from edgekit.builder.request.recipe import AUTO, Recipe, default_recipe, ladder, recipe_named
from edgekit.builder.request.target import GATED_PROVIDERS, UNGATED_NOTE, refuse_lost_options
from edgekit.builder.spec import DEFAULT_CONTEXT, check_target
from edgekit.builder.support.families import is_tied
from edgekit.errors import UsageError

# With one of these options the user chooses how to quantise, and no default recipe is taken.
_QUANTISING = frozenset(
    {
        "accuracy_level", "algo_config", "block_size", "is_symmetric", "matmul_mixed_precision",
        "nodes_to_exclude", "op_types_to_quantize", "use_cuda_bf16", "use_qdq",
    }
)  # fmt: skip


ROUTES = ("auto", "low-memory", "stock")
"""The routes through the builder (docs/build.md); their outputs are equal byte for byte."""


class BuildRequest(msgspec.Struct, frozen=True):
    """A build as the user requests it, on the command line or in build.toml.

    Attributes:
        model: a Hugging Face folder, a GGUF file or `ORG/NAME`.
        out: the output folder.
        precision, provider: the builder's `-p` and `-e`; precision None takes the recipe's, else
            int4.
        options: `KEY=VALUE` pairs of the builder's `--extra_options`.
        revision: of a Hugging Face name; None means its main branch.
        hub_cache: folder for downloads; None means Hugging Face's own cache.
        recipe: a name, or `auto`; None takes the model's default, unless an option chooses how to
            quantise.
        budget_bytes: largest size of the model, with `auto` only.
        context: cap for the default length of prompt and answer, in tokens.
        gate: the profile of thresholds; None skips the gate, and the record says so.
        thresholds: limits that replace those of the profile.
        route: `auto`, `low-memory` or `stock` (the flag --path).
        trust_remote_code: run code from the model's repository.
        vision_precision: of the part that sees, for a model that takes pictures.
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
    vision_precision: str | None = None

    @property
    def asked(self) -> str:
        """The requested recipe as build.json keeps it: a name, `auto`, `auto BYTES`, or empty."""
        budget = f" {self.budget_bytes}" if self.budget_bytes else ""
        return f"{self.recipe or ''}{budget}"


class CheckedRequest(msgspec.Struct, frozen=True):
    """The result of checking a request that does not contradict itself.

    Attributes:
        given: the builder's options from the request, in canonical spelling.
        recipe: the named recipe; None for `auto` and for none.
        precision: the precision, unless a chosen recipe has another.
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
    """Check a request without looking at the model.

    Raises:
        UsageError: it contradicts itself, or names a recipe, option or route that does not exist.
    """
    check_route(request.route)
    if request.budget_bytes is not None and request.recipe != AUTO:
        raise UsageError(
            "--budget goes with --recipe auto", next_step="add --recipe auto, or leave --budget out"
        )
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
    notes = check_target(precision, request.provider)
    options = given | (recipe.options if recipe else {})
    refuse_lost_options(options, precision, request.provider)
    if request.provider not in GATED_PROVIDERS:
        if request.recipe == AUTO:
            raise UsageError(
                f"--recipe auto cannot choose a model for {request.provider}",
                why="it compares what the gate measures, and the gate runs on a CPU",
                next_step="name a recipe, or choose one with -e cpu",
            )
        notes += (UNGATED_NOTE.format(provider=request.provider),) if request.gate else ()
    return CheckedRequest(given, recipe, precision, notes)


def check_route(route: str) -> None:
    """Refuse an unknown route through the builder.

    Raises:
        UsageError: names the known routes.
    """
    if route not in ROUTES:
        raise UsageError(
            f"there is no route through the builder called {route}",
            next_step=f"use one of {', '.join(ROUTES)} with --path, or leave it out",
        )


def recipes_for(
    request: BuildRequest, checked: CheckedRequest, config: dict[str, Any]
) -> tuple[tuple[Recipe | None, ...], tuple[str, ...]]:
    """The recipes to build, in the order in which they are tried, and notes for the user.

    Args:
        config: config.json of the model; of a GGUF file only whether its head is the embedding.

    Returns:
        The recipes, with None for options that the user spelled out; and the reasons, one line
        each.
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
    """Refuse a tied model in a format that onnxruntime-genai 0.18.0 builds and cannot load.

    Raises:
        UsageError: the request asks for one.
    """
    if not is_tied(config) or checked.given.get("shared_embeddings") == "false":
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
