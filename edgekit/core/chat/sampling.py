"""How the next token of an answer is chosen: the request's fields over the bundle's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:  # a manifest has defaults, and no device's verb reads a request
    from edgekit.core.chat.request import ChatRequest


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The choices that decide the next token; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # as a share of the likeliest token's probability
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}  # by token id
    repetition_penalty: float = 1.0
    seed: int | None = None
    num_beams: int = 1  # above 1: beam search, which uses no other field but length_penalty
    length_penalty: float = 1.0

    @property
    def plain_greedy(self) -> bool:
        """Whether every token is the bare arg-max, which the runtime can choose by itself."""
        changed = self.logit_bias or self.presence_penalty or self.frequency_penalty
        return self.temperature == 0 and self.repetition_penalty == 1.0 and not changed


_SAMPLING_FIELDS = Sampling.__struct_fields__


def sampling_of(request: ChatRequest, defaults: dict[str, Any]) -> Sampling:
    """Merge the request's choices over the bundle's defaults."""
    chosen = dict(defaults)
    for name in _SAMPLING_FIELDS:
        value = getattr(request, name)
        if value is not None:
            chosen[name] = value
    sampling = msgspec.convert(chosen, Sampling)
    if sampling.num_beams > 1 and sampling.temperature and request.temperature is None:
        # the temperature is the bundle's default, not the requester's choice
        return msgspec.structs.replace(sampling, temperature=0.0)
    return sampling
