"""What the template environment does where engines differ; the oracle compares whole chats."""

from __future__ import annotations

import resource
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.tokens.bounds import bounded
from edgekit.tokens.chat import open_tokenizer
from edgekit.tokens.template import MAX_RENDERED_CHARACTERS, ChatRefusedError, ChatTemplate
from tests.models.tokenizer_kinds import make_tokenizer

NOW = datetime(2026, 11, 29, 13, 37)  # noqa: DTZ001  local time, as templates print it
USER = [{"role": "user", "content": "Hi"}]


def rendered(source: str, content: str = "Hi") -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"}, lambda: NOW)
    return template.render([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ '</think>' in messages[0].content }}", "True"),
        ("{{ 7/2 }} {{ 7//2 }}", "3.5 3"),
        ("{{ 'abc'[0] }}{{ 'abc'[-1] }}", "ac"),
        ("{% if true %}\n    {% if true %}\nx\n    {% endif %}\n{% endif %}", "x\n"),
        ("{{ tools is not none }} {{ tools is defined }}", "False True"),
        ("{{ documents is none }} {{ add_generation_prompt }}", "True True"),
        ("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "01"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}", "1"),
        ("{{ {'é': '<b>'} | tojson }}", '{"é": "<b>"}'),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{{ strftime_now('%d %b %Y') }}", "29 Nov 2026"),
        ("{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}", "2"),
        ("{{ dict(a=1).a }}{{ dict.fromkeys(['b'], 3).b }}", "13"),
        ("{{ bos_token }}|{{ eos_token }}|{{ enable_thinking is defined }}", "<s>||False"),
    ],
)
def test_it_renders_as_hugging_face_does(source: str, text: str) -> None:
    assert rendered(source, "a</think>b") == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content }}{{ messages[0].tool_calls[0].id }}", "c1"),
        ("{{ 'content' in messages[0] }}{{ messages[0].content is defined }}", "FalseFalse"),
        ("{{ messages[0].thinking }}|{{ messages[0].reasoning_content }}", "Hm|Hm"),
        ("{{ messages[0] | list | join(' ') }}", "thinking role reasoning_content tool_calls"),
    ],
)
def test_a_null_is_no_field_and_thinking_has_two_names(source: str, text: str) -> None:
    """What transformers 5.23 makes of the message before a template sees it."""
    template = ChatTemplate(source, {}, lambda: NOW)
    call = {"id": "c1", "function": {"name": "f", "arguments": None}}
    message = {"role": "assistant", "content": None, "reasoning_content": "Hm"}
    assert template.render([{**message, "tool_calls": [call]}]) == text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ missing.attribute }}", "'missing' is undefined"),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set ns = namespace(_x=1) %}", "private name"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "private name"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ range(1000000) }}", "Range too big"),
    ],
)
def test_what_a_template_refuses_is_said_in_its_words(source: str, said: str) -> None:
    with pytest.raises(ChatRefusedError, match="the chat template refused: ") as refused:
        rendered(source)
    assert said in refused.value.what


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("{{ think }}{{ tools }}{{ bos_token }}", ("think",)),
        ("{% if not think is defined %}{% set think = 1 %}{% endif %}{{ think }}", ("think",)),
        (
            "{% if think is defined %}{% else %}{% set think=1 %}{% endif %}{{ think }}",
            ("think",),
        ),
        ("{% set think = think | default(true) %}{{ think }}", ("think",)),
        ("{% set think = think if think is defined else 1 %}{{ think }}", ("think",)),
        ("{% set think = 1 %}{{ think }}", ()),
        ("{% set think = 1 %}{% for m in messages %}{% set think = think + 1 %}{% endfor %}", ()),
        ("{% for think in messages %}{% set think = think %}{{ think }}{% endfor %}", ()),
        ("{% set messages = messages[1:] %}{{ messages }}", ()),
    ],
)
def test_a_variable_that_a_caller_may_set_is_one_that_the_template_reads(
    source: str, options: tuple[str, ...]
) -> None:
    template = ChatTemplate(source, {"bos_token": "<s>"}, lambda: NOW)
    assert template.options == options
    shown = {template.render(USER, (), {"think": value}) for value in ("v", "w")}
    assert (len(shown) == 2) is bool(options)


def test_a_template_with_a_syntax_error_cannot_be_loaded() -> None:
    with pytest.raises(EdgekitError, match="cannot be read") as refused:
        ChatTemplate("{% if %}", {}, lambda: NOW)
    assert "TemplateSyntaxError" in refused.value.why


def test_a_text_without_end_is_refused() -> None:
    source = "{% for n in range(99999) %}{{ 'a' * 1000 }}{% endfor %}"
    with pytest.raises(ChatRefusedError, match=f"more than {MAX_RENDERED_CHARACTERS} characters"):
        rendered(source)


def test_a_template_that_does_not_end_is_stopped() -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate(endless, {}, lambda: NOW)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.2 s"), bounded(0.2):
        template.render(USER)
    assert time.monotonic() - began < 10


def test_a_template_that_takes_the_memory_is_stopped() -> None:
    greedy = "{% set x = messages[0].content * 999999999 %}{{ x | length }}"
    template = ChatTemplate(greedy, {}, lambda: NOW)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), bounded():
        template.render(USER)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_template_that_takes_the_memory_to_compile_is_stopped(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, "{{ 'a' * 999999999 }}")  # folded by the compiler
    tokenizer = open_tokenizer(folder)
    with pytest.raises(ChatRefusedError, match="much memory"):
        tokenizer.render([("user", "Hi")])


def test_another_timer_goes_on_after_a_render() -> None:
    rang = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with bounded(5):
            pass
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2
        time.sleep(0.3)
        assert rang
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left)
