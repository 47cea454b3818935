"""How long the gate takes: the arithmetic of what is announced. Pure; the standard library alone.

A script measures `Speeds` at work: they hold for this machine, this model and what else the machine
does. `guess` is for a plan, before anything ran.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Amounts:
    """The work of one gate.

    Attributes:
        parameters, vocabulary, hidden, layers: of the source.
        texts, tokens: number of texts that are scored, and most tokens that are written for each.
        greedy, greedy_tokens: number of greedy continuations, and most tokens of each.
        prompt: usual length of a prompt, in tokens.
        long: tokens of the long text.
        by_layer: the loss of each layer is measured, too.
    """

    parameters: int
    vocabulary: int
    hidden: int
    layers: int
    texts: int = 16
    tokens: int = 80
    greedy: int = 12
    greedy_tokens: int = 128
    prompt: int = 50
    long: int = 640
    by_layer: bool = True

    @property
    def body(self) -> float:
        """Share of a token's arithmetic that is not the head's."""
        return max(0.1, 1 - self.vocabulary * self.hidden / max(1, self.parameters))


@dataclass(frozen=True)
class Speeds:
    """Seconds of one unit of work.

    Attributes:
        load: the libraries and the full-precision model, until it computes.
        read: one token of a text in a batch, by full precision.
        step: one token of each text and of each greedy continuation, by full precision; 0 where it
            is too large to write.
        single: one token alone, by the built model; 0 where it was not measured.
    """

    load: float
    read: float
    step: float
    single: float = 0.0


@dataclass(frozen=True)
class Parts:
    """Seconds of each script."""

    reference: float
    model: float
    layers: float
    text: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all."""
        return self.reference + self.model + self.layers + self.text


# Measured on two idle CPUs with SmolLM2-135M in 4 bits. What is not a ratio is in seconds, and is
# multiplied by the pace.
_READ_TIMES = 0.87  # the built model's time to read a token, over full precision's
_SINGLE_TIMES = 0.042  # its time for a token alone, over a step of the whole batch
_SINGLE_READS = 3.0  # the same, over full precision's time to read one
_ENDED = 0.85  # share of the tokens that are written before a text ends
_COMPARED = 6e-9  # for each logit
_WEIGHTS = 1.3e-8  # for each parameter that is compared with its source
_START = 1.0  # a script without torch
_EXCHANGED = 2e-8  # for each parameter that is put into the source and taken out again
_EXPORTED = 2.5e-8  # for each parameter that is built in fp32, written and loaded again
_BUILDER = 1.5  # the model builder's start, over the reference's
_SINGLES = 64
_LAYER_TOKENS = 64
_CAUSE_TEXTS = 5
_CPUS = 2
_IMPORTS, _LOADED = 4.5, 2e-9  # to start with torch, and for each parameter
_PER_CPU = 45e9  # floating-point operations per second in float32
_BANDWIDTH = 9.6e9  # bytes per second; every step reads all weights
_CALL = 0.03  # a step's share of Python


def guess(amounts: Amounts, cpus: int, *, writes: bool) -> Speeds:
    """The speeds of an idle machine like the one that was measured.

    Args:
        cpus: number of usable CPUs.
        writes: full precision is held in float32 as a whole.
    """
    read = 2 * amounts.parameters / (_PER_CPU * max(1, cpus))
    rows = amounts.texts + amounts.greedy
    step = _CALL + 4 * amounts.parameters / _BANDWIDTH + rows * read
    load = _IMPORTS + amounts.parameters * _LOADED
    return Speeds(load, read, step if writes else 0.0)


def pace(amounts: Amounts, speeds: Speeds) -> float:
    """How much more slowly than the measured machine this one computes."""
    return speeds.read / guess(amounts, _CPUS, writes=True).read


def parts(amounts: Amounts, speeds: Speeds) -> Parts:
    """Seconds of each script of a gate: the built model writes the text where the source cannot."""
    writes, slower = speeds.step > 0, pace(amounts, speeds)
    batch = amounts.texts + amounts.greedy
    steps = max(amounts.tokens, amounts.greedy_tokens)
    writing = batch * amounts.prompt * speeds.read * amounts.body + steps * speeds.step
    read = amounts.texts * (amounts.prompt + _ENDED * amounts.tokens) + amounts.long
    scored = amounts.texts * _ENDED * amounts.tokens + amounts.long
    single = speeds.single or _SINGLE_TIMES * speeds.step or _SINGLE_READS * speeds.read
    singly = amounts.greedy * _ENDED * amounts.greedy_tokens + (_SINGLES if amounts.long else 0)
    model = (
        text_seconds(amounts, speeds, read + amounts.long, scored)
        + singly * single
        + slower * (_START + amounts.parameters * _WEIGHTS)
    )
    exchange = amounts.parameters / max(1, amounts.layers) * _EXCHANGED * slower
    layers = speeds.load + amounts.layers * (_LAYER_TOKENS * speeds.read + exchange)
    written = amounts.texts * amounts.tokens * _ENDED * single
    return Parts(
        reference=speeds.load + (writing if writes else 0.0) + read * speeds.read,
        model=model,
        layers=layers if amounts.by_layer and writes else 0.0,
        text=0.0 if writes else slower * _START + written,
    )


def text_seconds(amounts: Amounts, speeds: Speeds, read: float, scored: float) -> float:
    """Seconds in which the built model reads so many tokens, and so many are scored."""
    compared = scored * amounts.vocabulary * _COMPARED * pace(amounts, speeds)
    return read * speeds.read * _READ_TIMES + compared


def now(amounts: Amounts, before: Speeds, seconds: float, read: float, scored: float) -> Speeds:
    """Speeds that were measured before, as they are now.

    Args:
        seconds: in which the built model has just read `read` tokens, `scored` of them compared.
    """
    factor = seconds / text_seconds(amounts, before, read, scored)
    return Speeds(before.load * factor, before.read * factor, before.step * factor)


def cause_seconds(amounts: Amounts, speeds: Speeds) -> float:
    """Seconds of the search for the cause of a loss: three models read the first texts."""
    read = min(_CAUSE_TEXTS, amounts.texts) * (amounts.prompt + _ENDED * amounts.tokens)
    exported = amounts.parameters * _EXPORTED * pace(amounts, speeds)
    build = _BUILDER * speeds.load + exported
    return build + 3 * (_START * pace(amounts, speeds) + read * speeds.read * _READ_TIMES)
