"""Recipes by name, the default of a model, and what `auto` keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.gate.ladder import RecipeResult, fits, goes_on, kept, table
from edgekit.builder.request.options import check_options
from edgekit.builder.request.recipe import (
    ADAPTER_LADDER,
    LADDER,
    RECIPES,
    default_recipe,
    ladder,
    recipe_named,
)
from edgekit.builder.request.request import BuildRequest, check_request, refuse_unloadable
from edgekit.errors import UsageError

PHI_35 = {
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
}
PHI_4_MINI = PHI_35 | {"num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064}
LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_is_options_the_builder_knows(recipe: Any) -> None:
    assert check_options(recipe.options) == dict(sorted(recipe.options.items()))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (PHI_35, "plain"),
        (PHI_4_MINI, "k-quant-mixed"),
        (LLAMA_1B, "k-quant-mixed"),
        (SMOLLM2, "k-quant"),
        ({}, "k-quant"),
    ],
)
def test_a_model_has_a_default_with_a_reason(config: dict[str, Any], name: str) -> None:
    choice = default_recipe(config)
    assert choice.recipe.name == name
    assert choice.why


def test_a_misspelt_recipe_names_the_right_one() -> None:
    with pytest.raises(UsageError, match="there is no recipe k_quant") as refused:
        recipe_named("k_quant")
    assert refused.value.next_step == "did you mean k-quant?"


def test_the_ladder_leaves_out_what_would_not_load() -> None:
    assert [recipe.name for recipe in ladder(SMOLLM2)] == list(LADDER)
    assert not any(recipe.needs_untied for recipe in ladder(SMOLLM2))


@pytest.mark.parametrize(
    ("asked", "instead"),
    [
        ({"recipe": "plain-asymmetric"}, "k-quant, which"),
        ({"recipe": "plain-head8"}, "k-quant-head8"),
        ({"options": ("matmul_mixed_precision=last_matmul:int8",)}, "k-quant-head8"),
    ],
)
def test_what_does_not_load_with_tied_embeddings_is_refused_before(
    asked: dict[str, Any], instead: str
) -> None:
    wish = check_request(BuildRequest("m", Path("out"), **asked))
    with pytest.raises(UsageError, match="tied embeddings") as refused:
        refuse_unloadable(wish, SMOLLM2 | {"tie_word_embeddings": True})
    assert instead in refused.value.next_step
    refuse_unloadable(wish, SMOLLM2 | {"tie_word_embeddings": False})
    apart = check_request(BuildRequest("m", Path("out"), options=("shared_embeddings=false",)))
    refuse_unloadable(apart, SMOLLM2 | {"tie_word_embeddings": True})


def test_what_ties_by_its_class_alone_does_not_load_either() -> None:
    silent = {"architectures": ["Gemma2ForCausalLM"]}
    older = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "tie_word_embeddings": False,
        "text_config": {"tie_word_embeddings": True},
    }  # fmt: skip
    wish = check_request(BuildRequest("m", Path("out"), recipe="plain-head8"))
    for config in (silent, older):
        assert not any(recipe.needs_untied for recipe in ladder(config, adapter=True))
        with pytest.raises(UsageError, match="tied embeddings"):
            refuse_unloadable(wish, config)
    refuse_unloadable(wish, {**older, "architectures": ["Qwen3VLForConditionalGeneration"]})


def test_an_adapter_is_built_by_recipes_that_pack_narrow_matrices() -> None:
    assert default_recipe(SMOLLM2, adapter=True).recipe.name == "plain"
    names = [recipe.name for recipe in ladder({}, adapter=True)]
    assert names == list(ADAPTER_LADDER)
    assert not any("k-quant" in name for name in names)


def trial(name: str, size: int, kl: float, *, passed: bool = True) -> RecipeResult:
    return RecipeResult(name, size, passed, kl, 0.9, 100.0, () if passed else ("mean-kl",))


SMALL = trial("small", 80, 0.5, passed=False)
MIDDLE = trial("middle", 100, 0.3)
LARGE = trial("large", 120, 0.1)


def test_without_a_budget_the_first_that_passes_ends_the_walk() -> None:
    assert goes_on([], None)
    assert goes_on([SMALL], None)
    assert not goes_on([SMALL, MIDDLE], None)
    assert kept([SMALL, MIDDLE], None) == MIDDLE
    assert kept([SMALL], None) is None


def test_with_a_budget_the_best_that_fits_is_kept() -> None:
    assert goes_on([SMALL, MIDDLE], 110)
    assert fits(110, 110)
    assert not fits(111, 110)
    assert kept([SMALL, MIDDLE, LARGE], 130) == LARGE
    assert kept([SMALL, MIDDLE, LARGE], 110) == MIDDLE
    assert kept([SMALL, MIDDLE, LARGE], 90) is None


def test_the_table_names_what_refused_a_recipe() -> None:
    lines = table([SMALL, MIDDLE]).splitlines()
    assert lines[1].endswith("mean-kl")
    assert lines[2].endswith("passed")
