"""A setting is one line: each field of `DeviceSettings` goes from fleet.toml to agent.toml."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.agent.release import activate
from edgekit.agent.release.root import Root
from edgekit.bundle.layers import agent_layer
from edgekit.bundle.layout import Layout
from edgekit.cli.project import find
from edgekit.core.config import (
    FIRST_SETTINGS,
    AgentConfig,
    BrokerConfig,
    DeviceSettings,
    agent_config,
    encode_agent_config,
    known_settings,
    parse_agent_config,
    parse_known_agent_config,
    used_settings,
)
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    SETTINGS,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
)
from edgekit.core.rules.rule import Rule
from edgekit.errors import UsageError
from edgekit.fleet import inventory
from edgekit.fleet.commands import Argv, CommandResult
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.facts import DeviceFacts
from edgekit.fleet.plan import check_settings, config_bytes
from edgekit.fleet.push import ReleaseSource, stage_on
from edgekit.store import BlobStore
from edgekit.trust.pinned import pin

# As the agent and the controller of commit c9e86d5 wrote it: every default, in this order.
FIRST_AGENT_TOML = b"""\
device = "pi"
threads = 0
slots = 0
batching = false
max_beams = 1
logits_processors = ""
pools = []
queue_limit = 8
requester_limit = 4
requests_per_minute = 0
max_messages = 1024
max_prompt_tokens = 0
max_answer_tokens = 0
drain_seconds = 30.0
trial_seconds = 120.0
metrics_port = 0

[broker]
host = "127.0.0.1"
port = 1883
username = ""
password_file = ""
keepalive_seconds = 30
tls = false
ca_file = ""
cert_file = ""
key_file = ""
crl_file = ""
"""
DIGEST = Digest.of(b"release")
TABLES = {"door": {"topic_filter": "door", "prompt": "{{ message }}"}}


class Newer(AgentConfig, frozen=True, forbid_unknown_fields=True):
    """The agent's configuration in a later edgekit."""

    words_per_answer: int = 0


def another(field: msgspec.structs.FieldInfo) -> Any:
    """A value that is not the field's default and goes with the defaults of the others."""
    if field.type is str:
        return "/else:where"
    if field.default_factory is list:
        return ["elsewhere"]
    if field.name == "rules":
        return {"door": Rule(topic_filter="door", prompt="{{ message }}")}
    if isinstance(field.default, bool):
        return not field.default
    return field.default + 1 if field.default < 2 else field.default - 1


def keys_of(name: str) -> set[str]:
    """The keys of agent.toml that a device setting takes, as `used_settings` says them."""
    return {name} | ({"rules.topic_filter", "rules.prompt"} if name == "rules" else set())


OTHER = {field.name: another(field) for field in msgspec.structs.fields(DeviceSettings)}


def load(folder: Path, tables: dict[str, object]) -> inventory.Fleet:
    path = folder / "fleet.toml"
    path.write_bytes(msgspec.toml.encode(tables))
    return inventory.load(path)


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_goes_from_fleet_toml_to_the_agent(name: str, tmp_path: Path) -> None:
    value = msgspec.to_builtins(TABLES if name == "rules" else OTHER[name])
    table = {"address": "ssh:pi", name: value}
    fleet = load(tmp_path, {"devices": {"pi": table}})
    told = agent_config("pi", fleet.broker_of("pi", BrokerConfig()), fleet.devices["pi"])
    assert told == AgentConfig("pi", **{name: OTHER[name]})
    assert used_settings(told) == {"device", *keys_of(name)}
    data = encode_agent_config(told)
    assert parse_agent_config(data) == told
    assert msgspec.toml.decode(data) == {"device": "pi", name: value}


def test_all_settings_go_together() -> None:
    told = agent_config("pi", BrokerConfig(), AgentConfig("another", **OTHER))
    assert told == AgentConfig("pi", **OTHER)
    names = DeviceSettings.__struct_fields__
    assert used_settings(told) == {"device"}.union(*map(keys_of, names))


@pytest.mark.parametrize("field", msgspec.structs.fields(BrokerConfig), ids=lambda f: f.name)
def test_a_value_of_the_broker_goes_from_fleet_toml_to_the_agent(
    field: msgspec.structs.FieldInfo, tmp_path: Path
) -> None:
    value = "/elsewhere/{device}" if field.type is str else another(field)
    device = {"address": "ssh:pi"}
    base = BrokerConfig(tls=True, cert_file="/cert", key_file="/key")
    if field.name == "tls":
        base, value = BrokerConfig(), True
    given = str(value).replace("{device}", "pi") if field.type is str else value
    wanted = msgspec.structs.replace(base, **{field.name: given})
    whole = load(tmp_path, {"broker": {field.name: value}, "devices": {"pi": device}})
    assert whole.broker_of("pi", base) == wanted
    own = load(tmp_path, {"devices": {"pi": device | {"broker": {field.name: value}}}})
    assert own.broker_of("pi", base) == wanted
    assert f"broker.{field.name}" in used_settings(AgentConfig("pi", wanted))
    with pytest.raises(UsageError, match="broker") as caught:
        load(tmp_path, {"broker": {field.name: [value]}})
    assert f"$.{field.name}" in caught.value.why


@pytest.mark.parametrize(
    ("table", "what", "why"),
    [
        ({"queue_limt": 3}, "the device pi", "queue_limt"),
        ({"device": "other"}, "the device pi", "`device`"),
        ({"threads": "many"}, "the device pi", "threads"),
        ({"max_messages": 0}, "the device pi", "max_messages"),
        ({"trial_seconds": 0.0}, "the device pi", "trial_seconds"),
        ({"broker": {"hots": "x"}}, "the broker of pi", "hots"),
        ({"broker": {"port": "1883"}}, "the broker of pi", "port"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_file_its_device_and_its_key(
    table: dict[str, object], what: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        load(
            tmp_path,
            {"devices": {"good": {"address": "ssh:a"}, "pi": {"address": "ssh:b"} | table}},
        )
    assert str(tmp_path / "fleet.toml") in caught.value.what
    assert what in caught.value.what
    assert why in caught.value.why


def test_what_was_written_with_the_defaults_says_the_same_as_without() -> None:
    first = parse_agent_config(FIRST_AGENT_TOML)
    assert first == AgentConfig("pi") == parse_agent_config(b'device = "pi"\n')
    assert encode_agent_config(first) == b'device = "pi"\n'


def test_an_agent_of_before_reads_what_uses_nothing_new() -> None:
    read = msgspec.toml.decode(FIRST_AGENT_TOML)
    flat = {*read, *(f"broker.{name}" for name in read["broker"])}
    assert flat == FIRST_SETTINGS
    assert known_settings() >= FIRST_SETTINGS, "a key was taken away"
    told = msgspec.toml.decode(encode_agent_config(Newer("pi", BrokerConfig(port=1884))))
    assert told == {"device": "pi", "broker": {"port": 1884}}


# --- keys that an agent does not know


def manifest(*known: str) -> Manifest:
    notes = {SETTINGS: ",".join(known)} if known else {}
    agent = Descriptor(AGENT_TYPE, DIGEST, 1, notes)
    blob = Descriptor(CONFIG_TYPE, DIGEST, 1)
    return Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, blob, [agent])


def device(current: Manifest | None, config: bytes = b"", damage: str = "") -> DeviceFacts:
    """A device that runs a release, or none."""
    data = encode(current) if current else b""
    return DeviceFacts(
        *("/r", "x86_64", "3.11", "/bin/python3", "2.36", 1, True),
        current=Digest.of(data) if current else None,
        bootstrap="bootstrap-1",
        manifest=data.decode() + damage,
        config=config.decode(),
    )


NEW = sorted({*FIRST_SETTINGS, "words_per_answer"})
ASKED = Newer("pi", words_per_answer=7)


def test_a_bundle_whose_agent_does_not_know_a_key_is_packed_again() -> None:
    for old in (manifest(), manifest(*sorted(FIRST_SETTINGS))):
        for there in (device(None), device(manifest()), device(manifest(*NEW))):
            with pytest.raises(UsageError, match=r"^pi: .*bundle .* words_per_answer") as caught:
                check_settings(ASKED, there, old)
            assert "pack the model again" in caught.value.next_step
            check_settings(Newer("pi"), there, old)


@pytest.mark.parametrize("damage", ["", " "])
def test_an_old_agent_on_the_device_is_pushed_to_once_without_the_key(damage: str) -> None:
    old = device(manifest(), damage=damage)
    with pytest.raises(UsageError, match=r"^pi: .*the device has .* words_per_answer") as caught:
        check_settings(ASKED, old, manifest(*NEW))
    assert "push once without words_per_answer" in caught.value.next_step
    check_settings(Newer("pi"), old, manifest(*NEW))  # which is done
    check_settings(ASKED, device(manifest(*NEW)), manifest(*NEW))  # and then it goes


def test_an_agent_that_says_what_it_knows_activates_what_a_newer_one_reads() -> None:
    check_settings(ASKED, device(manifest(*sorted(FIRST_SETTINGS))), manifest(*NEW))
    data = encode_agent_config(msgspec.structs.replace(ASKED, trial_seconds=7.0))
    with pytest.raises(UsageError, match=r"agent\.toml"):
        parse_agent_config(data)
    assert parse_known_agent_config(data) == AgentConfig("pi", trial_seconds=7.0)
    assert parse_known_agent_config(b'device = "pi"\n[broker]\nnew = 1\nport = 9\n') == AgentConfig(
        "pi", BrokerConfig(port=9)
    )


def test_a_bundle_says_which_keys_its_agent_knows(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.create()
    assert manifest().settings is None
    packed = msgspec.structs.replace(manifest(), layers=[agent_layer(store)])
    assert packed.settings == known_settings()
    assert (manifest().updater, packed.updater) == (0, 1)


def test_a_first_contact_brings_an_agent_that_knows_the_key() -> None:
    check_settings(ASKED, device(None), manifest(*NEW))


def test_a_new_key_of_the_broker_is_named_with_its_table() -> None:
    config = AgentConfig("pi", BrokerConfig(port=1884, keepalive_seconds=9))
    with pytest.raises(UsageError, match=r"know broker\.port\n"):
        check_settings(
            config, device(None), manifest("device", "broker", "broker.keepalive_seconds")
        )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"device = ",
        b"\xff",
        b'device = "a/b"\n',
        b'device = "pi"\ntrial_seconds = 0\nnew = 1\n',
        b'device = "pi"\nqueue_limit = "many"\nnew = 1\n',
        b'device = "pi"\nbroker = 3\n',
        b'device = "pi"\nbroker = { port = "x", new = 1 }\n',
    ],
)
def test_a_broken_agent_toml_is_refused_before_anything_stops(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"agent\.toml is not valid"):
        parse_known_agent_config(data)


class Recorder:
    """A device that is there and shows its facts; nothing else may be asked of it."""

    def __init__(self, facts: DeviceFacts) -> None:
        self.facts = facts

    def run(self, argv: Argv, stdin: bytes = b"", seconds: float = 0.0) -> CommandResult:
        assert argv == ("python3", "-", "/r"), "only the probe"
        return CommandResult(0, msgspec.json.encode(self.facts, enc_hook=str), b"")

    def append(self, *arguments: object) -> None:
        raise AssertionError("a byte moves")

    def bring(self, *arguments: object, **more: object) -> str:
        raise AssertionError("a byte moves")

    def close(self) -> None: ...


def test_a_push_refuses_an_unknown_key_before_a_byte_moves(tmp_path: Path) -> None:
    store = Layout(tmp_path)
    store.create()
    bundle = store.put(encode(BundleConfig("tiny", "1", "llama", "", 16, 1, 16, Fit(0, 0))))
    agent = Descriptor(AGENT_TYPE, DIGEST, 1, {SETTINGS: ",".join(NEW)})
    runtime = Descriptor(RUNTIME_TYPE, DIGEST, 1, {PLATFORM: "linux/amd64", PYTHON: "3.11"})
    whole = Manifest(
        2, MANIFEST_TYPE, BUNDLE_TYPE, Descriptor(CONFIG_TYPE, bundle, 1), [agent, runtime]
    )
    pinned = pin(encode(whole), Digest.of(encode(whole)))
    source = ReleaseSource(pinned, None, store, lambda _: ("", b""))
    driver = DeviceDriver("pi", inventory.Device("ssh:pi"), Recorder(device(manifest())), "/r")
    with pytest.raises(UsageError, match="words_per_answer"):
        stage_on(driver, source, ASKED, lambda _: None)
    with pytest.raises(AssertionError, match="only the probe"):  # without it, it goes on
        stage_on(driver, source, Newer("pi"), lambda _: None)


# --- a push that changes nothing


def test_a_device_keeps_its_own_spelling_of_the_same_settings() -> None:
    current = manifest()
    release = Digest.of(encode(current))
    there = device(current, FIRST_AGENT_TOML)
    same = AgentConfig("pi")
    assert config_bytes(same, there, release) == FIRST_AGENT_TOML
    assert config_bytes(same, there, DIGEST) == b'device = "pi"\n', "another release restarts it"
    changed = AgentConfig("pi", queue_limit=3)
    assert config_bytes(changed, there, release) == b'device = "pi"\nqueue_limit = 3\n'
    for unreadable in (b"", b"device =", FIRST_AGENT_TOML + b"new = 1\n"):
        assert config_bytes(same, device(current, unreadable), release) == b'device = "pi"\n'


@pytest.mark.parametrize(
    ("known", "later", "own"),
    [(("device", "slots"), "slots", False), (("device",), "slots", True), ((), "later", True)],
)
def test_a_rollback_takes_the_release_s_own_file_where_it_does_not_know_a_setting(
    tmp_path: Path, known: tuple[str, ...], later: str, own: bool
) -> None:
    root = Root(tmp_path)
    root.create()
    data = encode(manifest(*known))
    release = Digest.of(data)
    root.store.path(release).write_bytes(data)
    root.agent_config.write_bytes(f'device = "pi"\n{later} = 2\n'.encode())
    assert activate._own_config(root, release) is None  # there is no other file
    root.previous_config.write_bytes(b'device = "pi"\n')
    assert activate._own_config(root, release) == (b'device = "pi"\n' if own else None)
    root.store.path(release).write_bytes(b"damaged")
    assert activate._own_config(root, release) is None
    root.agent_config.unlink()
    assert activate._own_config(root, release) is None


REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def test_the_defaults_that_the_pages_name_are_those_of_the_code() -> None:
    defaults = msgspec.structs.asdict(AgentConfig("pi", BrokerConfig()))
    found = [
        (page.name, name, float(number))
        for page in PAGES
        for name, number in re.findall(r"`([a-z_]+)` \((\d+)(?: s)?\)", page.read_text())
        if name in defaults
    ]
    assert {name for _, name, _ in found} >= {"trial_seconds", "drain_seconds"}
    for page, name, number in found:
        assert number == defaults[name], f"{page}: {name}"


PAGE_TABLES = [
    pytest.param(textwrap.dedent(block), id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^ *```toml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    )
]


@pytest.mark.parametrize("text", PAGE_TABLES)
def test_the_tables_of_the_pages_are_taken_as_they_stand(tmp_path: Path, text: str) -> None:
    if "[operator]" in text or "requester =" in text:
        (tmp_path / "edgekit.toml").write_text(text)
        assert find(tmp_path).operator_broker
        return
    text = re.sub("^inventories = .*$", "", text, flags=re.MULTILINE)
    for name in [*re.findall(r"\[devices\.([\w-]+)[.\]]", text), "pi-1", "pi-2", "jetson-1"]:
        if f"[devices.{name}]" not in text:
            text += f'\n[devices.{name}]\naddress = "ssh:{name}"\n'
    (tmp_path / "fleet.toml").write_text(text)
    fleet = inventory.load(tmp_path / "fleet.toml")
    for name in fleet.devices:
        assert fleet.broker_of(name, BrokerConfig(tls=True))
        fleet.pull_of(name)
