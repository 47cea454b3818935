"""What `mqtt/hardened.py` takes of paho that paho does not promise, and the version that has it."""

from __future__ import annotations

import ast
import inspect
import re
import ssl
import tomllib
from importlib.metadata import version
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.mqtt.hardened import PRIVATE_METHODS, PRIVATE_VALUES

ROOT = Path(__file__).parents[2]
MQTT = ROOT / "edgekit" / "mqtt"
PRIVATE = re.compile(r"_(?!_)")
PIN = re.compile(r"paho-mqtt==([^\s\\]+)")


@pytest.fixture
def client() -> paho.Client:
    return paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)


@pytest.mark.parametrize("name", PRIVATE_METHODS)
def test_a_private_method_of_paho_is_what_it_was(name: str) -> None:
    method = getattr(paho.Client, name, None)
    assert method is not None, f"paho.mqtt.client.Client has no {name}"
    assert str(inspect.signature(method)) == PRIVATE_METHODS[name]


@pytest.mark.parametrize("name", PRIVATE_VALUES)
def test_a_private_value_of_paho_is_what_it_was(name: str, client: paho.Client) -> None:
    assert hasattr(client, name), f"paho.mqtt.client.Client has no {name}"
    assert type(getattr(client, name)) is PRIVATE_VALUES[name]


def test_private_values_of_paho_mean_what_they_did(client: paho.Client) -> None:
    packet = client._in_packet
    assert (type(packet["command"]), type(packet["packet"])) == (int, bytearray)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.tls_set_context(context)
    assert client._ssl_context is context
    with pytest.raises(ValueError, match="already"):
        client.tls_set_context(context)
    client._ssl_context = None
    client.tls_set_context(context)
    assert paho.Client(CallbackAPIVersion.VERSION2, manual_ack=True)._manual_ack is True


def test_the_list_of_private_names_is_whole() -> None:
    """Of a client of paho, nothing else that is private is touched."""
    hardened = ast.parse((MQTT / "hardened.py").read_text("utf-8"))
    (client,) = (
        node
        for node in hardened.body
        if isinstance(node, ast.ClassDef) and node.name == "UnbreakableClient"
    )
    overridden = {
        node.name
        for node in client.body
        if isinstance(node, ast.FunctionDef) and PRIVATE.match(node.name)
    }
    touched = private_names(client, {"self", "super()"})
    assert touched | overridden == {*PRIVATE_METHODS, *PRIVATE_VALUES}
    for file in MQTT.glob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        assert private_names(tree, {"client", "self.client", "self._client"}) == set(), file


def private_names(tree: ast.AST, owners: set[str]) -> set[str]:
    """The private attributes of these owners that it reads, writes or calls."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and PRIVATE.match(node.attr)
        and ast.unparse(node.value) in owners
    }


def test_paho_is_pinned_to_one_version_here_and_on_a_device() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [line for line in project["dependencies"] if line.startswith("paho-mqtt")]
    runtime = ROOT / "containers" / "runtime"
    pins = {
        "pyproject.toml": PIN.findall("\n".join(named)),
        "runtime.in": PIN.findall((runtime / "runtime.in").read_text("utf-8")),
        "runtime.lock": PIN.findall((runtime / "runtime.lock").read_text("utf-8")),
    }
    assert pins == {file: [version("paho-mqtt")] for file in pins}
