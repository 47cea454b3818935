"""Words of a command line that nobody can mean: each is refused by name, with what to do next."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from edgekit.broker.embedded import embedded_broker
from edgekit.cli.main import application
from edgekit.errors import EdgekitError, UsageError


def refused(*words: str) -> UsageError:
    """How a command line is refused; it is looked at before any project is."""
    done = CliRunner().invoke(application(words[0]), list(words))
    assert isinstance(done.exception, UsageError), (done.output, done.exception)
    return done.exception


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300"])
@pytest.mark.parametrize(
    "words",
    [
        ("fleet", "check", "--timeout"),
        ("support-bundle", "demo", "--wait"),
        ("gateway", "--drain"),
        ("top", "--interval"),
    ],
)
def test_a_time_that_no_clock_can_wait_for_is_refused(
    words: tuple[str, ...], seconds: str
) -> None:
    error = refused(*words, seconds)
    assert f"{words[-1]} {float(seconds):g}" in error.what
    assert error.next_step


@pytest.mark.parametrize(
    "words",
    [
        ("gateway", "--deadline", "0"),
        ("gateway", "--cert-file", "x"),
        ("top", "--sort", "colour"),
        ("top", "--interval", "0"),
    ],
)
def test_a_wrong_word_has_a_next_step(words: tuple[str, ...]) -> None:
    assert refused(*words).next_step


@pytest.mark.parametrize("host", ["300.1.1.1", "broker.example", "", "mqtt://x"])
def test_the_embedded_broker_takes_no_name_for_an_address(host: str) -> None:
    with pytest.raises(UsageError, match="is no address") as error, embedded_broker(host, 1883):
        pass
    assert "--host 127.0.0.1" in error.value.next_step


def test_an_address_that_the_embedded_broker_cannot_read_is_refused() -> None:
    with pytest.raises(EdgekitError, match="no broker can listen"), embedded_broker("fe80::1%x", 1):
        pass
