"""`katacsi`: the list of commands, and how each kind of error ends.

A command's module is named, not imported: `katacsi serve` is a node process, and carries neither the other
commands nor what they draw their tables with.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from katacsi import __version__
from katacsi.errors import KatacsiError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A configuration or a call that cannot work as it stands; click's own code for bad usage.
EXIT_USAGE: Final = 2


class _Command(NamedTuple):
    """Where a command is, and its line in the list, so that the list needs no import."""

    place: str
    line: str


_COMMANDS: Final[Mapping[str, _Command]] = {
    "serve": _Command("katacsi.cli.serve:serve", "Serve CSI on a unix socket until SIGTERM."),
    "watch-nodes": _Command(
        "katacsi.cli.watch_nodes:watch_nodes", "Notice nodes that are gone for good, until SIGTERM."
    ),
    "demo": _Command("katacsi.demo.command:demo", "Walk a volume through its life, on this machine."),
    "doctor": _Command("katacsi.cli.doctor:doctor", "Check this node, and say what to change."),
    "volumes": _Command("katacsi.cli.volumes:volumes", "List and show the volumes of the pools."),
    "support-bundle": _Command(
        "katacsi.cli.support_bundle:support_bundle", "Collect what is known of this node into one file."
    ),
    "direct-volume": _Command(
        "katacsi.cli.direct_volume:direct_volume",
        "Add, list and remove the records Kata reads; ask its guests.",
    ),
    "backends": _Command("katacsi.cli.backends:backends", "List the storage backends that are installed."),
    "config": _Command("katacsi.cli.config:config", "Check a configuration, or print its schema."),
}


class Root(click.Group):
    """The commands, imported one at a time; katacsi's own errors end as one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, the most used first."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.line) for name, command in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # as click has it
        """Run the command that was called."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            _complain(error)
            ctx.exit(EXIT_USAGE)
        except KatacsiError as error:
            _complain(error)
            ctx.exit(1)
        except PermissionError as error:
            # Whatever a command looks at: pools, facts and records are root's.
            click.echo(f"Error: {error.filename}: {error.strerror}; run it as root", err=True)
            ctx.exit(1)


def _complain(error: KatacsiError) -> None:
    for line in error.message.splitlines():
        click.echo(f"Error: {line}", err=True)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="katacsi", message="%(prog)s %(version)s")
def katacsi() -> None:
    """Persistent volumes for Kata Containers, handed over as block devices.

    `katacsi COMMAND --help` tells more of a command. Exit codes: 0 done, 1 it could not be done,
    2 the call or the configuration is wrong.
    """
