"""The keys of a GGUF header, each of which has to be accounted for. Pure."""

from __future__ import annotations

from typing import Any

from edgekit.builder.support.gguf.header import GgufHeader, GgufTensor, LongArray
from edgekit.errors import UsageError

INSTEAD = "use the model's Hugging Face folder or name instead"

# Keys that change nothing if they have one of these values.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "rope.scaling.yarn_attn_factor": (0, 1),
    "rope.scaling.yarn_beta_fast": (0,),
    "rope.scaling.yarn_beta_slow": (0,),
    "rope.scaling.yarn_ext_factor": (-1, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "use_parallel_residual": (False,),
}
_MOST = 1e9  # of anything that a header counts
# llama.cpp reads the layout of query and key from the architecture alone
_HARMLESS = frozenset({"tensor_data_layout"})


class HeaderKeys:
    """The keys of one prefix; what is not taken has to be harmless.

    Args:
        header: the whole header.
        prefix: general.architecture, or `tokenizer`.
    """

    def __init__(self, header: GgufHeader, prefix: str) -> None:
        self.header = header
        self._prefix = f"{prefix}."
        self._left = {
            key.removeprefix(self._prefix): value
            for key, value in header.values.items()
            if key.startswith(self._prefix)
        }

    @property
    def tensors(self) -> dict[str, GgufTensor]:
        """The file's tensors."""
        return self.header.tensors

    def rows(self, name: str) -> int | None:
        """The first dimension of a tensor; None where there is no such tensor."""
        tensor = self.tensors.get(name)
        return tensor.shape[0] if tensor and tensor.shape else None

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which counts as read from now on."""
        return self._left.pop(key, default)

    def number(self, key: str, default: int | None = None) -> int:
        """A number that holds for every layer.

        Raises:
            UsageError: it is missing, differs by layer, or is no number above zero.
        """
        value = self.take(key, default)
        if isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, tuple | LongArray):
            raise self.refusal(key, "it differs from layer to layer")
        if value is None:
            raise self.refusal(key, "it is missing")
        if not isinstance(value, int) or not 0 < value < _MOST:
            raise self.refusal(key, f"it is {value!r}")
        return value

    def real(self, key: str, default: float) -> float:
        """A number; the default, where it is missing or zero.

        Raises:
            UsageError: it is no number above zero.
        """
        value = self.take(key)
        if value is None or value == 0:
            return default
        if not isinstance(value, int | float) or not 0 < value < _MOST:
            raise self.refusal(key, f"it is {value!r}")
        return float(value)

    def left(self) -> dict[str, Any]:
        """Keys that were neither taken nor are harmless."""
        return {
            key: value
            for key, value in self._left.items()
            if key not in _HARMLESS and not (key in _NEUTRAL and value in _NEUTRAL[key])
        }

    def refuse_left(self) -> None:
        """Refuse a header that says more than was taken.

        Raises:
            UsageError: names the first such key.
        """
        for key, value in sorted(self.left().items()):
            raise self.refusal(key, f"it is {str(value)[:60]}, and would be dropped in silence")

    def refusal(self, key: str, why: str) -> UsageError:
        """The error for a key that cannot be carried over.

        Args:
            key: without its prefix, or a tensor's name.
        """
        name = key if key in self.tensors else f"{self._prefix}{key}"
        return UsageError(
            f"{self.header.name} cannot be read: edgekit does not carry over {name}", why, INSTEAD
        )

    def contradiction(self, what: str, why: str) -> UsageError:
        """The error for a header that contradicts itself."""
        return UsageError(what, why, f"download it again, or {INSTEAD}")
