"""Words of a command line that nobody can mean: each is refused by name, with what to do next."""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

import edgekit
from edgekit.broker.embedded import embedded_broker
from edgekit.builder.output.publish import read_record
from edgekit.builder.source.configfile import read_object
from edgekit.bundle.folder import read_folder
from edgekit.bundle.pack import read_model
from edgekit.cli import project
from edgekit.cli.init import write_project
from edgekit.cli.main import application, main
from edgekit.cli.options import replaceable
from edgekit.cli.release.carry import _target as target_of
from edgekit.cli.talk.answering import next_of, schema_format
from edgekit.client.requester import _Question
from edgekit.core.config import BrokerConfig
from edgekit.core.digest import Digest
from edgekit.core.protocol.wire import ProtocolError
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet import inventory
from edgekit.fleet.planning.planfile import PLAN_BEGINS, PushPlan
from edgekit.fleet.rollout.report import page
from edgekit.fleet.rollout.report.page import PAGE_BEGINS
from edgekit.gateway.keys import load


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
def test_a_time_that_no_clock_can_wait_for_is_refused(words: tuple[str, ...], seconds: str) -> None:
    error = refused(*words, seconds)
    assert f"{words[-1]} {float(seconds):g}" in error.what
    assert error.next_step


@pytest.mark.parametrize(
    "words",
    [
        ("gateway", "--deadline", "0"),
        ("gateway", "--passwords", "/no/such/folder"),
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


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["edgekit.toml", "fleet.toml"])
def test_a_folder_in_the_place_of_a_file_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "edgekit.toml").touch()
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=f"{name} is a folder") as error:
        project.find(tmp_path).fleet()
    assert "move it away" in error.value.next_step
    with pytest.raises(UsageError, match=f"{name} is a folder"):
        write_project(tmp_path, 1883)


def test_the_next_step_for_a_folder_without_a_project_names_that_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        project.find(tmp_path / "other")
    assert f"`edgekit init {tmp_path / 'other'}`" in error.value.next_step


@pytest.mark.parametrize("address", ["", "pi-1", "local:", "ssh:"])
def test_a_wrong_address_has_a_next_step(tmp_path: Path, address: str) -> None:
    (tmp_path / "fleet.toml").write_text(f'[devices.a]\naddress = "{address}"\n')
    with pytest.raises(UsageError, match="the address of a is") as error:
        inventory.load(tmp_path / "fleet.toml")
    assert error.value.next_step


def test_what_is_nested_too_deep_to_be_read_is_refused_by_its_file(tmp_path: Path) -> None:
    deep_json = f'{{"a": {DEEP}'
    for name, text in (
        ("fleet.toml", f"a = {DEEP}"), ("config.json", deep_json), ("genai_config.json", deep_json),
        ("build.json", deep_json),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    for read in (
        lambda: inventory.load(tmp_path / "fleet.toml"),
        lambda: read_object(tmp_path, "config.json"),
        lambda: read_model(tmp_path),
        lambda: read_folder(tmp_path),
    ):
        with pytest.raises(UsageError) as error:
            read()
        assert error.value.next_step
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "rights"),
        (errno.ENOENT, "check the path"),
        (errno.EROFS, "read-only"),
        (errno.EISDIR, "name a file"),
        (errno.ENOTDIR, "is a file"),
        (errno.EEXIST, "another path"),
        (errno.ENAMETOOLONG, "shorter"),
    ],
)
def test_what_the_system_refuses_has_a_next_step_that_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: int, step: str,
) -> None:  # fmt: skip
    def refuse(_: str) -> None:
        raise OSError(number, os.strerror(number), "/some/where")

    monkeypatch.setattr("edgekit.cli.main.application", refuse)
    monkeypatch.setattr("sys.argv", ["edgekit", "man", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "/some/where" in said
    assert step in said.partition("next:")[2]


@pytest.mark.parametrize("columns", ["0", "00", ""])
def test_an_error_is_said_on_a_terminal_that_has_no_columns(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.argv", ["edgekit", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert "COLUMNS" not in os.environ


@pytest.mark.parametrize(
    "host", ["", "mqtt://broker:1883", "broker:1883", "127.0.0.1:1883", "a b", "a\nb", "[::1]"]
)
def test_a_host_that_no_broker_can_have_is_refused_where_it_is_written(
    tmp_path: Path, host: str
) -> None:
    text = msgspec.toml.encode({"broker": {"host": host}})
    (tmp_path / "edgekit.toml").write_bytes(text)
    with pytest.raises(UsageError, match=r"edgekit\.toml is not valid") as error:
        project.find(tmp_path)
    assert "no name and no address" in error.value.why


@pytest.mark.parametrize("host", ["broker", "10.0.0.1", "::1", "fe80::1%eth0", "küche.lan", "a_b"])
def test_a_host_that_a_broker_can_have_is_taken(host: str) -> None:
    assert BrokerConfig(host).host == host


@pytest.mark.parametrize("seconds", [-1, 65536])
def test_a_keep_alive_that_mqtt_has_not_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match="keepalive_seconds"):
        BrokerConfig(keepalive_seconds=seconds)


@pytest.mark.parametrize("text", ["a:b:c", "::::", "x:0"])
def test_a_broker_of_a_flag_is_looked_at_as_that_of_the_file(text: str) -> None:
    with pytest.raises(UsageError, match="is not a broker"):
        project.parse_broker(text, BrokerConfig())


@pytest.mark.parametrize("name", ["alice@example.com", "Hans Müller", "a/b#", "x" * 65])
def test_a_requester_is_refused_and_not_asked_for_under_another_name(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "edgekit.toml").write_bytes(msgspec.toml.encode({"requester": name}))
    with pytest.raises(UsageError, match=r"edgekit\.toml is not valid") as error:
        project.find(tmp_path)
    assert "requester" in error.value.why


@pytest.mark.parametrize("table", ["devices", "groups"])
def test_a_name_that_a_command_takes_for_an_option_is_refused(tmp_path: Path, table: str) -> None:
    (tmp_path / "fleet.toml").write_text(f'[{table}."-x"]\naddress = "local:x"\n')
    with pytest.raises(UsageError, match="'-x' cannot be") as error:
        inventory.load(tmp_path / "fleet.toml")
    assert "option" in error.value.why


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (("--port", "8884"), "two listeners cannot have the port 8884"),
        (("--cert-file", "/x\nallow_anonymous true"), "cannot stand in mosquitto.conf"),
    ],
)
def test_the_files_of_a_broker_that_could_not_start_are_not_written(
    tmp_path: Path, wrong: tuple[str, str], what: str
) -> None:
    write_project(tmp_path, 1883)
    error = refused("broker", "acl", str(tmp_path / "b"), "--project", str(tmp_path), *wrong)
    assert what in error.what
    assert not (tmp_path / "b").exists()


def test_a_key_that_nobody_could_read_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgekit.cli.render.say", full)
    file = tmp_path / "keys.json"
    done = CliRunner().invoke(
        application("gateway"), ["gateway", "key", "add", "bob", "--keys", str(file)]
    )
    assert isinstance(done.exception, OSError)
    assert load(file) == ()


@pytest.mark.parametrize(
    ("begins", "what"), [(PLAN_BEGINS, "plan of a push"), (PAGE_BEGINS, "report")]
)
def test_a_verb_writes_over_its_own_files_alone(tmp_path: Path, begins: bytes, what: str) -> None:
    own, other, empty = (tmp_path / name for name in ("own", "edgekit.toml", "empty"))
    own.write_bytes(begins + b"...")
    other.write_text('requester = "alice"\n')
    empty.touch()
    for path in (own, empty, tmp_path / "new"):
        assert replaceable(path, begins, what) == path
    with pytest.raises(UsageError, match=f"is no {what}") as error:
        replaceable(other, begins, what)
    assert "move that one away" in error.value.next_step
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(own)
    assert replaceable(link, begins, what) == own
    os.mkfifo(pipe)
    for no_file in (tmp_path, pipe, Path("/dev/null")):
        with pytest.raises(UsageError, match="is no file"):
            replaceable(no_file, begins, what)


def test_a_plan_and_a_report_begin_as_is_looked_for() -> None:
    template = Path(page.__file__).with_name("page.html.j2")
    assert template.read_bytes().startswith(PAGE_BEGINS)
    fields = {each.name for each in msgspec.structs.fields(PushPlan)}
    assert min(fields | {"digest"}) == "devices"


def test_a_plan_is_not_saved_in_the_place_of_the_project_s_own_file(tmp_path: Path) -> None:
    write_project(tmp_path, 1883)
    file = tmp_path / "edgekit.toml"
    before = file.read_text()
    error = refused("push", "--plan", "--save", str(file), "--project", str(tmp_path))
    assert (file.read_text(), "is no plan of a push" in error.what) == (before, True)


def test_an_export_writes_over_no_file_that_is_no_tar(tmp_path: Path) -> None:
    file = tmp_path / "thesis.tar"
    file.write_text("a text that somebody named so")
    with pytest.raises(UsageError, match="is no tar"):
        target_of(file, Digest.of(b"x"))


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (ProtocolError("invalid_request", "x", "temperature"), "--temperature"),
        (ProtocolError("invalid_request", "x", "stop[0]"), "--stop"),
        (ProtocolError("invalid_schema", "x", "response_format.json_schema"), "--schema"),
        (ProtocolError("context_length_exceeded", "x"), "shorter prompt"),
        (ProtocolError("rate_limited", "x", "", 12_000), "ask again in 12 s"),
        (ProtocolError("queue_full", "x"), "ask again"),
        (ProtocolError("cancelled", "x"), ""),
    ],
)
def test_what_a_device_refuses_names_the_option_or_the_time(
    error: ProtocolError, step: str
) -> None:
    assert step in next_of(error)
    assert bool(step) == bool(next_of(error))


def test_a_schema_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_bytes(b'\xef\xbb\xbf{"type": "object"}')
    told = schema_format(file)
    assert told is not None
    assert told["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("verb", ["rotate", "add"])
def test_a_damaged_key_is_refused_before_another_one_is_made(tmp_path: Path, verb: str) -> None:
    assert CliRunner().invoke(application("init"), ["init", str(tmp_path)]).exit_code == 0
    keys = tmp_path / ".edgekit" / "keys"
    before = sorted(keys.iterdir())
    (keys / "root.pem").write_text("no key")
    error = refused("key", verb, "online", "--project", str(tmp_path))
    assert "is not a usable key" in error.what
    assert sorted(keys.iterdir()) == before


def test_a_pool_that_does_not_answer_is_named_as_the_user_did() -> None:
    assert _Question("id", b"", "kitchen").named == "pool:kitchen"
    assert not _Question("id", b"", "").named


def without_next_step(path: Path) -> list[str]:
    """The lines of a file that refuse a request and do not say what to do next."""
    return [
        f"{path}:{call.lineno}"
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") == "UsageError"
        and len(call.args) < 3
        and not any(isinstance(word, ast.Starred) for word in call.args)
        and not any(word.arg in ("next_step", None) for word in call.keywords)
    ]


def test_every_refused_request_says_what_to_do_next() -> None:
    folder = Path(edgekit.__file__).parent
    files = [path for path in folder.rglob("*.py") if "agent" not in path.parts]
    assert len(files) > 300
    assert not [line for path in files for line in without_next_step(path)]


def without_example(command: Any, path: str = "edgekit") -> Iterator[str]:
    """The commands and groups whose help shows none of them at work."""
    if "Example" not in (command.help or ""):
        yield path
    for name, each in getattr(command, "commands", {}).items():
        yield from without_example(each, f"{path} {name}")


def test_every_help_has_an_example() -> None:
    assert not list(without_example(typer.main.get_command(application())))
