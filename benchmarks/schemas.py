"""`agent.schema_*`: what a schema costs an answer, and what its forced tokens save."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.agent import SETTLE_SECONDS, STORY
from benchmarks.figure import figure
from benchmarks.models import SMOLLM2
from benchmarks.rig import DEVICE, Rig
from benchmarks.runtimes import decoding, fastest_llamacpp
from edgekit.client import Delta, Final
from edgekit.errors import EdgekitError

PAIRS = 7  # of answers; the median of their ratios makes one round
FIRST_PAIRS = 40
TOKENS = 120
FIRST_TOKENS = 8
SENSORS = ("inlet", "outlet", "bearing", "housing", "ambient")
READING = "Write down invented temperatures of a machine's sensors."
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "seed": 1}
GREEDY = {"temperature": 0}
TURNS = "the same device, in turns, over Mosquitto on this machine"


def record(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


STRING = {"type": "string", "minLength": 4000}  # longer than the answer may be
KEYS = record(
    **{
        f"temperature_of_the_{name}_in_degrees_celsius": {
            "type": "integer",
            "minimum": 10,
            "maximum": 99,
        }
        for name in SENSORS
    }
)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Asked:
    """One answer at the requester: its tokens, seconds to the first delta, and from there on."""

    tokens: int
    first_seconds: float
    rest_seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second from the call to the end."""
        return self.tokens / (self.first_seconds + self.rest_seconds)

    @property
    def decoding(self) -> float:
        """Tokens per second behind the first."""
        return (self.tokens - 1) / self.rest_seconds


def ask(rig: Rig, prompt: str, tokens: int, fields: dict[str, Any], schema: Any = None) -> Asked:
    """Prompt the device; no beginning of the prompt was seen before."""
    time.sleep(SETTLE_SECONDS)
    system = {"role": "system", "content": f"Number {next(_numbers)}."}
    body = {"messages": [system, {"role": "user", "content": prompt}], "max_tokens": tokens}
    if schema is not None:
        form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        body["response_format"] = form
    first, began = None, time.perf_counter()
    for reply in rig.requester.ask(DEVICE, body | fields):
        if isinstance(reply, Delta) and first is None:
            first = time.perf_counter()
        if isinstance(reply, Final):
            ended, usage = time.perf_counter(), reply.completion["usage"]
    if first is None:
        raise EdgekitError("the answer came without a delta")
    return Asked(usage["completion_tokens"], first - began, ended - first)


def ratios(rig: Rig, with_schema: Any, fields: dict[str, Any]) -> list[float]:
    """Tokens/s of a schema's endless string over those of free text."""
    rig.device  # noqa: B018  made here, not in the first sample

    def pair(number: int) -> float:
        rates = {}
        for schema in (None, with_schema) if number % 2 else (with_schema, None):
            rates[schema is None] = ask(rig, STORY, TOKENS, fields, schema).decoding
        return rates[False] / rates[True]

    pair(0)
    return [median(pair(number) for number in range(PAIRS)) for _ in range(rig.rounds)]


@figure(
    "agent.schema_ratio",
    what="Sampled tokens/s inside a schema's string, over free text's",
    unit="ratio",
    against=f"free text at the same temperature; {TURNS}",
)
def schema_ratio(rig: Rig) -> list[float]:
    """A mask at every token, and nothing forced."""
    return ratios(rig, STRING, SAMPLED)


@figure(
    "agent.schema_greedy_ratio",
    what="Greedy tokens/s inside a schema's string, over free text's",
    unit="ratio",
    against=f"greedy free text, which the runtime chooses by itself; {TURNS}",
)
def schema_greedy_ratio(rig: Rig) -> list[float]:
    """As `agent.schema_ratio`; without a schema the logits need not leave the runtime."""
    return ratios(rig, STRING, GREEDY)


@figure(
    "agent.schema_keys_ratio",
    what="Greedy tokens/s of a record whose keys the schema forces, over free text's",
    unit="ratio",
    against=f"greedy free text, from the call to the final; {TURNS}",
)
def schema_keys_ratio(rig: Rig) -> list[float]:
    """What the grammar forces goes in as slices: the whole answers' tokens over their time."""
    rig.device  # noqa: B018  as above

    def pair(number: int) -> float:
        rates = {}
        for schema in (None, KEYS) if number % 2 else (KEYS, None):
            rates[schema is None] = ask(rig, READING, TOKENS, GREEDY, schema).rate
        return rates[False] / rates[True]

    pair(0)
    return [median(pair(number) for number in range(PAIRS)) for _ in range(rig.rounds)]


@figure(
    "agent.schema_first_token_ms",
    what="First delta of an answer to a schema seen before, less that of free text",
    unit="ms",
    against=f"the same prompt without a schema; {TURNS}",
)
def schema_first_token_ms(rig: Rig) -> list[float]:
    """Milliseconds; the schema is one of an object with five forced keys."""
    rig.device  # noqa: B018  as above

    def pair(number: int) -> float:
        first = {}
        for schema in (None, KEYS) if number % 2 else (KEYS, None):
            asked = ask(rig, READING, FIRST_TOKENS, GREEDY, schema)
            first[schema is None] = asked.first_seconds * 1e3
        return first[False] - first[True]

    pair(0)
    return [median(pair(number) for number in range(FIRST_PAIRS)) for _ in range(rig.rounds)]


@figure(
    "agent.schema_llamacpp_ratio",
    what="Greedy tokens/s of a record with forced keys through MQTT, over llama.cpp's",
    unit="ratio",
    against="llama.cpp's grammar of the same schema, as its server uses it; its best threads, Q4_1",
)
def schema_llamacpp_ratio(rig: Rig) -> list[float]:
    """Tokens of the whole answer over the time from its first token to its last."""
    if rig.model.name != SMOLLM2:
        raise EdgekitError("only smollm2 is had as a GGUF file", next_step=f"--model {SMOLLM2}")
    theirs = fastest_llamacpp(rig)
    rig.device  # noqa: B018  as above

    def llamacpp() -> float:
        return decoding(theirs, READING, TOKENS, KEYS)

    def device() -> float:
        return ask(rig, READING, TOKENS, GREEDY, KEYS).decoding

    device(), llamacpp()
    return [device() / llamacpp() for _ in range(rig.rounds)]
