"""Questions on the terminal. They are written to stderr: stdout is for results."""

from __future__ import annotations

import typer

from edgekit import terminal


def confirm(question: str) -> bool:
    """Ask yes or no; without an answer it is no."""
    with terminal.question():
        return typer.confirm(question, err=True)


def secret(question: str) -> str:
    """Ask for a password, which the terminal does not show."""
    with terminal.question():
        return str(typer.prompt(question, hide_input=True, err=True))
