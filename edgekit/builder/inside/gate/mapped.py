"""Lets a model compute in float32, one matrix at a time, while its weights stay mapped.

transformers 5 loads a checkpoint in its own precision as views of the mapped files. When a module
is used, it reads its weights from there in float32 and in slices, and gives the pages back. The
memory of a whole pass is bounded by one slice and the activations, not by the model.
"""

from typing import Any

import torch
from common.mapped_pages import give_back
from torch import nn

SLICE_ELEMENTS = 16 * 2**20  # 64 MiB in float32


def compute_in_float32(model: nn.Module) -> None:
    """Make every module of a model read its mapped weights in float32.

    The result equals that of the whole model in float32, because bfloat16 and float16 convert to
    float32 exactly.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = _Linear(module)
        elif isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(_take_rows)
            module.register_forward_hook(_put_back)
        elif any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(_widen)
            module.register_forward_hook(_put_back)


class _Linear:
    """torch.nn.functional.linear over slices of the rows."""

    def __init__(self, module: nn.Linear) -> None:
        self._module = module

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        weight, bias = self._module.weight, self._module.bias
        step = max(1, SLICE_ELEMENTS // weight.shape[1])
        out = inputs.new_empty((*inputs.shape[:-1], weight.shape[0]))
        for at in range(0, weight.shape[0], step):
            rows = weight[at : at + step]
            out[..., at : at + step] = inputs @ rows.float().T
            _give_back(rows)
        return out if bias is None else out.add_(bias.float())


def _take_rows(module: nn.Embedding, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Reduce an embedding to the rows of this call, and renumber the ids accordingly."""
    ids, places = torch.unique(arguments[0], return_inverse=True)
    module._mapped = [(module, "weight", module.weight.data)]
    module._padding, module.padding_idx = (
        module.padding_idx,
        None,
    )  # the padding id has another number now
    module.weight.data = module.weight.data[ids].float()
    return (places, *arguments[1:])


def _widen(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    module._mapped = [
        (module, name, parameter.data)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.is_floating_point()
    ]
    for _, name, mapped in module._mapped:
        getattr(module, name).data = mapped.float()


def _put_back(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
    for owner, name, mapped in module._mapped:
        getattr(owner, name).data = mapped
        _give_back(mapped)
    if hasattr(module, "_padding"):
        module.padding_idx = module._padding


def _give_back(tensor: torch.Tensor) -> None:
    if tensor.is_contiguous():
        begin = tensor.data_ptr()
        give_back(begin, begin + tensor.numel() * tensor.element_size())
