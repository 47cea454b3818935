"""Ports on the command line: the system takes 70000 modulo 65536, and so did `edgekit gateway`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.testing import CliRunner

from edgekit.cli.main import application
from edgekit.cli.options import MOST_PORT


def ports(command: Any, path: str = "edgekit") -> Iterator[tuple[str, Any]]:
    """The options of all commands that are a port, by command and name."""
    for param in command.params:
        if "int" in param.type.name and param.opts[0].endswith("port"):
            yield f"{path} {param.opts[0]}", param.type
    for name, each in getattr(command, "commands", {}).items():
        yield from ports(each, f"{path} {name}")


def test_no_command_takes_a_port_that_there_is_not() -> None:
    found = dict(ports(typer.main.get_command(application())))
    assert {"edgekit gateway --port", "edgekit page --port", "edgekit broker run --port"} <= {
        *found
    }
    for name, kind in found.items():
        assert (getattr(kind, "max", None), getattr(kind, "min", None) in (0, 1)) == (
            MOST_PORT, True
        ), name  # fmt: skip


def test_a_port_out_of_bounds_is_refused_by_name() -> None:
    done = CliRunner().invoke(application("gateway"), ["gateway", "--port", "70000"])
    assert done.exit_code == 2
    assert "70000 is not in the range 0<=x<=65535" in done.output
