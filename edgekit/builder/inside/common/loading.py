"""Refuses a model that transformers or PEFT could only load in part.

transformers fills a missing tensor with random values, leaves out one without a place, and reports
both as a warning. Here its report has to be empty, but for the names that are explained.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.reporting import ScriptError

SHOWN = 3


@contextmanager
def strict_loading(leftovers: list[str], layers: int | None = None) -> Iterator[None]:
    """Until the block ends, every model that transformers or PEFT loads has to be complete.

    Args:
        leftovers: patterns of the names of tensors that need no place in the model.
        layers: number of layers that are loaded; those beyond need no place.

    Raises:
        ScriptError: of kind `incomplete`, by the names; or transformers has another loading report
            than the one that is read here.
    """
    from transformers import modeling_utils

    stock = getattr(modeling_utils, "log_state_dict_report", None)
    if stock is None:
        raise ScriptError("loading-report", "transformers has no log_state_dict_report any more")

    def judge(*_: Any, loading_info: Any, **__: Any) -> None:
        refuse_incomplete(loading_info, leftovers, layers)

    modeling_utils.log_state_dict_report = judge
    try:
        yield
    finally:
        modeling_utils.log_state_dict_report = stock


def refuse_incomplete(info: Any, leftovers: list[str], layers: int | None) -> None:
    """Raise for the first kind of finding in transformers' `LoadStateDictInfo`.

    Raises:
        ScriptError: of kind `incomplete`.
    """
    explained = re.compile("|".join(f"(?:{each})" for each in [*leftovers, r"(?!)"]))

    def has_place(name: str) -> bool:
        layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
        beyond = layers is not None and layer is not None and int(layer[1]) >= layers
        return not beyond and explained.search(name) is None

    shapes = [
        f"{name} ({_times(given)} instead of {_times(wanted)})"
        for name, given, wanted in sorted(info.mismatched_keys)
    ]
    for what, names in (
        ("the checkpoint lacks", sorted(info.missing_keys)),
        ("tensors have another shape than config.json says:", shapes),
        ("the checkpoint has tensors without a place in the model:", [
            name for name in sorted(info.unexpected_keys) if has_place(name)
        ]),
        ("transformers could not convert", sorted(info.conversion_errors)),
        ("transformers:", [str(message) for message in info.error_msgs]),
    ):  # fmt: skip
        if names:
            raise ScriptError("incomplete", f"{what} {_few(names)}")


@contextmanager
def strict_adapters() -> Iterator[None]:
    """Until the block ends, every tensor of an adapter has a place, and every place a tensor.

    Raises:
        ScriptError: of kind `incomplete`, by the names.
    """
    from peft import PeftModel

    stock = PeftModel.load_adapter

    def load(*args: Any, **how: Any) -> Any:
        report = stock(*args, **how)
        for what, names in (
            ("the adapter lacks", report.missing_keys),
            ("the adapter has tensors without a place in the model:", report.unexpected_keys),
        ):
            if names:
                raise ScriptError("incomplete", f"{what} {_few(sorted(names))}")
        return report

    PeftModel.load_adapter = load
    try:
        yield
    finally:
        PeftModel.load_adapter = stock


def _few(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _times(shape: Any) -> str:
    return " x ".join(map(str, shape))
