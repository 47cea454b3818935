"""Log-probabilities of an answer's tokens, and which of them may be shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np

from edgekit.agent.serve.worker.grammar.guide import Allowed, Guide
from edgekit.agent.serve.worker.processors import Logits
from edgekit.agent.serve.worker.sampling import largest
from edgekit.core.chat.logprobs import MAX_BYTES, MAX_TOP, NEVER, TokenLogprob, TopLogprob

DECIMALS = 6  # logits of float32 near 10 are exact to the sixth

BytesOf = Callable[[int], bytes]


class LogprobReader:
    """Reads the log-probabilities of one answer.

    Args:
        top: how many of the likeliest tokens to name in each place.
        bytes_of: returns the bytes of a token.
    """

    def __init__(self, top: int, bytes_of: BytesOf) -> None:
        self._top = top
        self._bytes_of = bytes_of
        self._size = 0  # of all entries in JSON

    @property
    def full(self) -> bool:
        """Whether the answer has all the log-probabilities that there is room for."""
        return self._size >= MAX_BYTES

    def read(self, logits: Logits, token: int, allowed: Allowed | None = None) -> TokenLogprob:
        """Return the log-probability of the token that was chosen.

        Args:
            logits: what the model said before the token, shape (vocabulary,); left unchanged. A
                token that cannot come has -inf.
            token: its id.
            allowed: of each token whether a grammar allows it; None allows all.
        """
        ids = None if allowed is None else np.flatnonzero(allowed)
        among = logits if ids is None else logits[ids]
        total = _log_of_sum(among)
        places = largest(among, self._top)
        tops_at = places if ids is None else ids[places]
        tops = [self._of(int(each), logits, total) for each in tops_at]
        return self._counted(self._of(token, logits, total), tops)

    def certain(self, token: int) -> TokenLogprob:
        """Return the log-probability of a token that had no rival: 0."""
        it = self._named(token, 0.0)
        return self._counted(it, [it] if self._top else [])

    def _of(self, token: int, logits: Logits, total: float) -> TopLogprob:
        return self._named(token, float(logits[token]) - total)

    def _named(self, token: int, logprob: float) -> TopLogprob:
        spelled = self._bytes_of(token)
        text = spelled.decode("utf-8", "backslashreplace")  # as OpenAI writes half a character
        known = round(max(NEVER, logprob), DECIMALS)  # in this order NaN becomes NEVER
        return TopLogprob(text, known, list(spelled) or None)

    def _counted(self, it: TopLogprob, tops: list[TopLogprob]) -> TokenLogprob:
        entry = TokenLogprob(it.token, it.logprob, it.bytes, tops)
        self._size += len(msgspec.json.encode(entry))
        return entry


def logprobs_of(top: int | None, bytes_of: BytesOf) -> LogprobReader | None:
    """Return what reads an answer's log-probabilities; None where nobody asked for them."""
    return None if top is None else LogprobReader(top, bytes_of)


def allowed_by(guide: Guide, logits: Logits) -> Allowed:
    """Return of each token whether it may come next, of the likeliest also by the object's keys.

    A mask knows nothing of the keys that an object has. So the likeliest tokens are asked about,
    until as many are left as may be named.
    """
    allowed = guide.allowed()
    while True:
        ids = np.flatnonzero(allowed)
        likeliest = ids[largest(logits[ids], MAX_TOP)]
        refused = [token for token in likeliest.tolist() if not guide.would_take(token)]
        if not refused:
            return allowed
        allowed[refused] = False


class ShownLogprobs:
    """Lets a token's entry go with the first character of its text.

    An entry stays with a text that is held back, and goes nowhere with a stop string.
    """

    def __init__(self) -> None:
        self._undecoded: deque[TokenLogprob] = deque()
        self._held: deque[tuple[int, TokenLogprob]] = deque()  # and where its text begins
        self._decoded = self._shown = 0  # characters

    def add(self, entry: TokenLogprob) -> None:
        """Note the entry of a token whose text is not known yet."""
        self._undecoded.append(entry)

    def decoded(self, text: str, shown: str) -> None:
        """Note the next token's text, and what of the whole text may be shown since."""
        self._held.append((self._decoded, self._undecoded.popleft()))
        self.completed(text, shown)

    def completed(self, text: str, shown: str) -> None:
        """Note text of tokens whose entries are known, and what of the whole text may be shown."""
        self._decoded += len(text)
        self._shown += len(shown)

    def take(self) -> list[TokenLogprob]:
        """Return the entries whose text may be shown, each once."""
        taken = []
        while self._held and self._held[0][0] < self._shown:
            taken.append(self._held.popleft()[1])
        return taken

    def end(self, stopped: bool) -> None:
        """Let go what is held, unless a stop string ended the answer."""
        if not stopped:
            self._shown = self._decoded + 1


def _log_of_sum(logits: Logits) -> float:
    """Return the logarithm of the sum of exponentials: log-softmax subtracts it."""
    highest = logits.max()
    weights = np.exp(logits - highest)
    return float(highest) + float(np.log(weights.sum(dtype=np.float64)))
