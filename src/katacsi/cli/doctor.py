"""`katacsi doctor`: checks a node, and says what to change."""

from __future__ import annotations

import asyncio
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from katacsi import logs, settings
from katacsi.cli.options import host_root_option
from katacsi.cli.output import Output, output_option, print_facts, print_json, print_table
from katacsi.doctor import examine
from katacsi.findings import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from katacsi.findings import Finding

_WORST_FIRST = (Verdict.FAILURE, Verdict.UNKNOWN, Verdict.WARNING, Verdict.NOTE, Verdict.OK)
_HEADINGS = ("VERDICT", "CHECK", "SUBJECT", "FOUND")


@click.command()
@click.option(
    "--config",
    envvar="KATACSI_CONFIG",
    show_envvar=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file. Without it there are no pools to check, and defaults are taken.",
)
@host_root_option
@click.option(
    "--kata-config",
    "kata_configurations",
    multiple=True,
    metavar="FILE",
    help="A configuration of Kata to judge, whatever the handlers use; a path of the node. May be repeated.",
)
@output_option()
def doctor(
    config: Path | None, host_root: Path, kata_configurations: tuple[str, ...], output: Output
) -> None:
    """Check this node, and say what to change.

    Looked at are Kata (each configuration that a handler of containerd or CRI-O leads to), the records by
    which it finds volumes, tools, kernel and mounts, and the pools of the configuration. Nothing is changed.

    Verdicts: `ok`; `note`, good to know; `warning`, may go wrong; `failure`, would lose data or break pods;
    `unknown`, could not be found out. The exit code is 1 for a failure, or an unknown that may hide one, and
    0 otherwise.
    """
    logs.configure("error", "console")
    _check_paths(host_root, kata_configurations)
    loaded = settings.load(config) if config else None
    findings = asyncio.run(
        examine.examine(loaded, host_root=host_root.resolve(), kata_configurations=kata_configurations)
    )
    if output == "json":
        print_json(
            {"summary": examine.summary(findings), "findings": [examine.as_json(one) for one in findings]}
        )
    else:
        _show(findings)
    if examine.alarming(findings):
        click.get_current_context().exit(1)


def _check_paths(host_root: Path, kata_configurations: Sequence[str]) -> None:
    for path in kata_configurations:
        if not path.startswith("/"):
            raise click.BadParameter(f"{path}: is relative; give the node's path", param_hint="--kata-config")
        if not (host_root / path.lstrip("/")).exists():
            raise click.BadParameter(f"{path}: is not there below {host_root}", param_hint="--kata-config")


def _show(findings: Sequence[Finding]) -> None:
    for group, members in groupby(findings, lambda finding: finding.check.group):
        click.secho(group, bold=True)
        print_table(_HEADINGS, [_row(finding) for finding in members], empty="")
        click.echo()
    for finding in sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.verdict)):
        if finding.verdict is not Verdict.OK and finding.result.remedy:
            print_facts(_advice(finding))
            click.echo()
    click.echo(examine.summary(findings))


def _row(finding: Finding) -> tuple[str, ...]:
    return (finding.verdict.value, finding.check.id, finding.result.subject, finding.result.fact)


def _advice(finding: Finding) -> tuple[tuple[str, str], ...]:
    result = finding.result
    harm = f" ({finding.harm.value})" if finding.harm.value else ""
    return (
        (finding.verdict.value.capitalize(), f"{finding.check.id}: {result.subject}{harm}"),
        ("Found", result.fact),
        ("Change", result.remedy),
        ("Because", finding.check.why),
    )
