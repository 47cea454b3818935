"""Runs one prompt in a decoder's slot: feeds it slice by slice, then answers token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from edgekit.agent.serve.pipe import Done, EndedPrompt, Refused, Start
from edgekit.agent.serve.worker.answer.answer import Answer
from edgekit.agent.serve.worker.answer.logprobs import LogprobReader, allowed_by
from edgekit.agent.serve.worker.decoder import Decoder, Logits
from edgekit.agent.serve.worker.grammar.guide import Allowed, GrammarError, Guide
from edgekit.agent.serve.worker.pictures.rows import row_of
from edgekit.agent.serve.worker.pictures.sight import Floats, Seen
from edgekit.agent.serve.worker.prefix import Slot
from edgekit.agent.serve.worker.sampling import Sampler
from edgekit.agent.serve.worker.scheduler import Load
from edgekit.core.chat.calls import ToolCall, joined
from edgekit.core.chat.completion import PromptTokensDetails, Timings, Usage
from edgekit.core.chat.logprobs import TokenLogprob
from edgekit.core.reading import UNREADABLE

NO_PICTURES: Mapping[int, Seen] = MappingProxyType({})


class Generation:
    """A prompt that runs.

    Args:
        start: the prompt.
        decoder: computes it.
        slot: the prompt's slot; its content begins with the prompt's first `kept` tokens.
        prompt: the prompt's tokens.
        kept: how many of them the slot holds already.
        answer: takes the tokens.
        sampler: chooses them; None leaves the arg-max to the runtime.
        limit: the most tokens of the answer; at least 1.
        clock: monotonic seconds.
        quantum: the number of the worker's last quantum that computed a part of this prompt.
        pictures: the prompt's pictures, by key.
        reader: reads log-probabilities, where they are asked for; it needs a sampler.
        guide: the grammar that the answer follows; there is a sampler then. None: any text.
    """

    def __init__(
        self,
        start: Start,
        decoder: Decoder,
        slot: Slot,
        prompt: Sequence[int],
        kept: int,
        answer: Answer,
        sampler: Sampler | None,
        limit: int,
        clock: Callable[[], float],
        quantum: int,
        pictures: Mapping[int, Seen] = NO_PICTURES,
        *,
        reader: LogprobReader | None = None,
        guide: Guide | None = None,
    ) -> None:
        self.start = start
        self.slot = slot
        self.quantum = quantum
        self._decoder = decoder
        self._pictures = pictures
        self._reader = reader
        self._looked: dict[int, list[Floats]] = {}  # the features of a picture's first views
        self._prompt_tokens = len(prompt)
        self._wanted = prompt  # the slot must hold these before the next token is chosen
        self._kept = kept
        self._answer = answer
        self._sampler = sampler
        self._limit = limit
        self._clock = clock
        self._rope_threshold = decoder.limits.rope_threshold
        self._began = clock()
        self._prefilled: float | None = None
        self._logits: Logits | None = None  # after the last token of the slot
        self._chosen: int | None = None  # the sampler chose it; it is not in the slot yet
        self._forget(kept)
        self._guide = guide
        self.refusal: Refused | None = None  # the grammar grew too complex

    @property
    def load(self) -> Load:
        """The prompt's load, for the scheduler."""
        held, rope = len(self.slot.tokens), self._rope_threshold
        remaining = max(0, len(self._wanted) - held)
        # A slice gets the long factors only if it ends above the threshold, so the first must.
        at_least = max(0, rope + 1 - held) if rope and self.slot.long_rope else 0
        return Load(self.slot.number, remaining, at_least, self.start.requester, self.quantum)

    @property
    def decodes(self) -> bool:
        """Whether the next computation is a token of the answer."""
        return len(self.slot.tokens) >= len(self._wanted)

    @property
    def begun(self) -> bool:
        """Whether the prompt is computed."""
        return self._prefilled is not None

    def open(self) -> str:
        """Say what every answer of the grammar begins with; return why it ends there, if it does.

        Nothing is computed for it. It goes into the slot with the prompt.
        """
        if self._guide is None:
            return ""
        opening = self._guide.opening
        reason = self._add(opening, self._guide)
        if opening and not reason:
            self._feed_next([*self._wanted, *opening])
        return reason

    @property
    def pending(self) -> int | None:
        """The token that must go into the slot before the next one can be chosen."""
        return self._chosen

    @property
    def is_sample(self) -> bool:
        """Whether its tokens are asked for; a picture's features would be missing in a sample."""
        return self.start.sample and not self._pictures

    @property
    def sample(self) -> EndedPrompt:
        """The tokens of the prompt and of its answer until now."""
        chosen = [] if self._chosen is None else [self._chosen]
        return EndedPrompt([*self.slot.tokens, *chosen], self._prompt_tokens)

    def unseen(self, count: int) -> int | None:
        """Return a picture whose features the next `count` items need and nobody has computed."""
        vision = self._decoder.vision
        if vision is None or not self._pictures:
            return None
        held = len(self.slot.tokens)
        rows = (item for item in self._wanted[held : held + count] if item < 0)
        keys = dict.fromkeys(row_of(item)[0] for item in rows)
        return next((key for key in keys if not vision.keeps(key)), None)

    def look(self, key: int) -> None:
        """Compute the next view of this picture; after the last one its features are kept."""
        vision = self._decoder.vision
        assert vision is not None
        picture, looked = self._pictures[key], self._looked.setdefault(key, [])
        looked.append(vision.look(picture.view(len(looked))))
        if len(looked) == picture.views:
            vision.keep(key, picture.rows(self._looked.pop(key)))

    def feed(self, count: int) -> None:
        """Compute the next `count` tokens of the prompt."""
        held = len(self.slot.tokens)
        tokens = list(self._wanted[held : held + count])
        self._logits = self._decoder.extend(self.slot.number, tokens)
        self.slot.tokens += tokens

    def take(self, logits: Logits) -> None:
        """Record that the pending token is in the slot, and keep the logits after it."""
        assert self._chosen is not None
        self.slot.tokens.append(self._chosen)
        self._chosen, self._logits = None, logits

    def advance(self) -> str:
        """Compute the pending token, if there is one, then `choose` the next."""
        if self._chosen is not None:
            slot = self.slot.number
            self.take(self._decoder.step({slot: self._chosen})[slot])
        return self.choose()

    def choose(self) -> str:
        """Choose a token while none is pending; return why the answer ends with it, if it does.

        The reason is a finish reason, or `refused`: then `refusal` says why.
        """
        if self._prefilled is None:
            self._prefilled = self._clock()
        if self._guide is not None:
            return self._choose_guided(self._guide)
        if self._sampler is None:
            token = self._decoder.greedy(self.slot.number)
            self.slot.tokens.append(token)
        else:
            assert self._logits is not None
            token = self._chosen = self._sampler.choose(self._logits)
        if self._answer.add(token, self._clock(), self._logprob(token)):
            return "stop"
        if self._full:
            return "length"
        self._cross_rope_threshold()
        return ""

    @property
    def _full(self) -> bool:
        """Whether the answer has all the tokens, or log-probabilities, that it may have."""
        full = self._reader is not None and self._reader.full
        return full or self._answer.count == self._limit

    def _logprob(self, token: int, allowed: Allowed | None = None) -> TokenLogprob | None:
        if self._reader is None:
            return None
        assert self._logits is not None
        return self._reader.read(self._logits, token, allowed)

    def _choose_guided(self, guide: Guide) -> str:
        """As `choose`, but what the grammar forces goes in with the chosen token, as one slice."""
        assert self._sampler is not None
        assert self._logits is not None
        try:
            allowed = None if self._reader is None else allowed_by(guide, self._logits)
            token = self._sampler.choose(self._logits, guide)
            if self._answer.add(token, self._clock(), self._logprob(token, allowed)):
                return "stop"
            forced = guide.forced()
        except GrammarError as error:
            return self._refuse(error)
        reason = self._add(forced, guide)
        if reason:
            return reason
        if forced:
            self._feed_next([*self.slot.tokens, token, *forced])
        else:
            self._chosen = token
            self._cross_rope_threshold()
        return ""

    def _refuse(self, error: GrammarError) -> str:
        constraint = self.start.constraint
        param = constraint.param if constraint else ""
        text = f"the grammar is too complex after {self._answer.count} tokens: {error}"
        self.refusal = Refused(self.start.key, "invalid_request", text, param)
        return "refused"

    def _add(self, forced: Sequence[int], guide: Guide) -> str:
        """Add forced tokens to the answer; return the finish reason if it ends with them.

        The grammar has taken them all, also those that the limit cuts off.
        """
        assert self._sampler is not None
        room = self._limit - self._answer.count
        self._sampler.skip(forced[:room])
        for token in forced[:room]:
            entry = None if self._reader is None else self._reader.certain(token)
            if self._answer.add(token, self._clock(), entry):
                return "stop"
        if len(forced) > room:
            return "length"
        if guide.ended:
            return "stop"
        return "length" if self._full else ""

    def _feed_next(self, tokens: Sequence[int]) -> None:
        """Let the slot hold these tokens before the next one is chosen: they go in as slices."""
        self._wanted = tokens
        self._cross_rope_threshold()

    def done(self, reason: str) -> Done:
        """End the answer here, and return its result."""
        now, count = self._clock(), self._answer.count
        prefilled = self._prefilled or now
        first = max(self._answer.first_at or now, prefilled)  # the first that the model chose
        said = self._answer.finish(now)
        if reason == "length" and self._answer.stopped:
            reason = "stop"  # its last characters were held until now
        calls = joined(said.calls)
        whole = bool(calls) and not (self.start.stops and _lacks_its_end(calls[-1]))
        return Done(
            self.start.key,
            said.text,
            "tool_calls" if whole and reason == "stop" else reason,
            Usage(
                self._prompt_tokens,
                count,
                self._prompt_tokens + count,
                PromptTokensDetails(self._kept),
            ),
            Timings(
                queue_ms=0.0,
                prompt_ms=(prefilled - self._began) * 1e3,
                first_token_ms=(first - self._began) * 1e3,
                predicted_ms=(now - prefilled) * 1e3,
                predicted_per_second=count / max(now - prefilled, 1e-9),
            ),
            said.reasoning,
            calls,
            None if self._reader is None else said.logprobs,
        )

    def _cross_rope_threshold(self) -> None:
        """Compute the slot again, once, when its next token would be above LongRoPE's threshold.

        The model changes its rotary factors there, for all tokens, but the runtime keeps the tokens
        that it computed with the old factors.
        """
        rope = self._rope_threshold
        if not rope or self.slot.long_rope:
            return
        tokens = self._wanted
        if self.decodes:
            tokens = [*self.slot.tokens, *([] if self._chosen is None else [self._chosen])]
        if len(tokens) > rope:
            self._wanted, self._chosen, self.slot.long_rope = tokens, None, True
            self._forget(0)

    def _forget(self, length: int) -> None:
        self._decoder.truncate(self.slot.number, length)
        del self.slot.tokens[length:]


def _lacks_its_end(call: ToolCall) -> bool:
    """Whether a call's arguments are not whole, as where a stop string ended the answer in it."""
    try:
        msgspec.json.decode(call.function.arguments)
    except UNREADABLE:
        return True
    return False
