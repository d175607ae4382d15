"""Runs all checks over a picture of a node, and sums up."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from katacsi.doctor import backends
from katacsi.doctor.backends import BACKENDS
from katacsi.doctor.cluster import CLUSTER
from katacsi.doctor.driver import DRIVER
from katacsi.doctor.hostfiles import HostFiles
from katacsi.doctor.hypervisors import HYPERVISORS
from katacsi.doctor.kata import KATA
from katacsi.doctor.kata_disks import DISKS
from katacsi.doctor.kata_keys import KEYS
from katacsi.doctor.kernel import KERNEL
from katacsi.doctor.kubelet import KUBELET
from katacsi.doctor.node import ROOT, collect
from katacsi.doctor.pools import POOLS
from katacsi.doctor.programs import PROGRAMS
from katacsi.doctor.record_root import RECORD_ROOT
from katacsi.doctor.records import RECORDS
from katacsi.doctor.runtimes import HANDLERS
from katacsi.doctor.shims import SHIMS
from katacsi.findings import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Check
    from katacsi.settings import Settings

#: In the order in which they are shown; checks of one group stand together.
_PARTS: Final = (
    *(HANDLERS, PROGRAMS, KATA, SHIMS, KEYS, DISKS),
    *(RECORD_ROOT, RECORDS, HYPERVISORS),
    *(DRIVER, KERNEL, KUBELET, CLUSTER),
    *(POOLS, BACKENDS),
)
CHECKS: Final[tuple[Check[Judge], ...]] = tuple(check for part in _PARTS for check in part.all)


async def examine(
    settings: Settings | None, *, host_root: Path = ROOT, kata_configurations: Sequence[str] = ()
) -> list[Finding]:
    """Look at a node, and judge it.

    Args:
        settings: the configuration, when there is one.
        host_root: where the node's root folder is seen.
        kata_configurations: configurations of Kata to judge besides those that handlers use, by the node's
            paths.

    Raises:
        SettingsError: the configuration's pools make no sense.
    """
    files = HostFiles(host_root)
    node = await collect(settings, files, kata_configurations=kata_configurations)
    return judge(node) + await backends.examine(node, files)


def judge(node: Node) -> list[Finding]:
    """Judge what is known of a node by doctor's own checks."""
    return [Finding(check, result) for check in CHECKS for result in check.judge(node)]


def alarming(findings: Iterable[Finding]) -> bool:
    """Whether something would lose data or break a pod, or nobody can tell that it would not."""
    return any(finding.alarming for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """Say in one line how it stands."""
    count = Counter(finding.verdict for finding in findings)
    failures = count[Verdict.FAILURE]
    parts = [
        f"{failures or 'no'} {_plural(failures, 'problem')} would break pods or lose data",
        f"{count[Verdict.WARNING]} {_plural(count[Verdict.WARNING], 'warning')}"
        if count[Verdict.WARNING]
        else "",
        f"{count[Verdict.UNKNOWN]} could not be determined" if count[Verdict.UNKNOWN] else "",
        f"{count[Verdict.NOTE]} {_plural(count[Verdict.NOTE], 'note')}" if count[Verdict.NOTE] else "",
        f"{count[Verdict.OK]} {_plural(count[Verdict.OK], 'check')} fine",
    ]
    return ", ".join(filter(None, parts))


def _plural(number: int, word: str) -> str:
    return word if number == 1 else f"{word}s"


def as_json(finding: Finding) -> dict[str, Any]:
    """Give what a program is told of a finding."""
    return {
        "id": finding.check.id,
        "group": finding.check.group,
        "subject": finding.result.subject,
        "verdict": finding.verdict.value,
        "harm": finding.harm.value,
        "fact": finding.result.fact,
        "remedy": finding.result.remedy,
        "why": finding.check.why,
    }
