"""The list of commands, and how errors end."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

import katacsi
from katacsi.cli.root import katacsi as root
from katacsi.errors import HostError, SettingsError

COMMANDS = root.list_commands(click.Context(root))


def test_version_is_that_of_the_package(run):
    """`--version` names the program and its version, in one line."""
    assert run("--version").output == f"katacsi {katacsi.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_is_listed_is_there_and_explains_itself(run, command):
    """Each name in the list is a command, with the same name, and `--help` says more than the list does."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: katacsi {command} ")
    assert len(result.output.splitlines()) > 5


def test_help_fits_a_narrow_terminal(run):
    """No line of any help page is longer than 80 signs."""
    pages = [run("--help")] + [run(command, "--help") for command in COMMANDS]
    for group in ("volumes", "config", "direct-volume"):
        module = root.get_command(click.Context(root), group)
        assert isinstance(module, click.Group)
        pages += [run(group, name, "--help") for name in module.commands]
    assert max(len(line) for page in pages for line in page.output.splitlines()) <= 80


def test_the_list_of_commands_imports_none(run):
    """`katacsi --help` answers at once: it needs no module of a command."""
    code = "import sys; from katacsi.cli.root import katacsi; katacsi(['--help'], standalone_mode=False); "
    code += "print([m for m in sys.modules if m.startswith(('katacsi.app', 'katacsi.demo', 'rich'))])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_an_unknown_command_is_a_usage_error(run):
    """A mistyped command ends with exit code 2 and is named."""
    result = run("serv")
    assert result.exit_code == 2
    assert "No such command 'serv'" in result.output


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (HostError("/dev/x: is gone; attach it"), 1, ["Error: /dev/x: is gone; attach it"]),
        (PermissionError(13, "Permission denied", "/p"), 1, ["Error: /p: Permission denied; run it as root"]),
        (SettingsError("f: a: bad\nf: b: bad"), 2, ["Error: f: a: bad", "Error: f: b: bad"]),
    ],
    ids=["operation", "permission", "settings"],
)
def test_errors_are_lines_and_an_exit_code(run, monkeypatch, error, code, lines):
    """An error of katacsi's own is its message on stderr, a line for each fact, without a traceback."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("katacsi.cli.backends.registry.installed", fail)
    result = run("backends")
    assert result.exit_code == code
    assert result.stderr.splitlines() == lines
    assert result.stdout == ""
