"""Puts a bundle together: the parts, a list of contents, one compressed archive."""

from __future__ import annotations

import io
import os
import tarfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi import settings
from katacsi.bundle import devices, driver, machine, redacting
from katacsi.bundle.parts import Part, Subject, gathered
from katacsi.errors import KatacsiError
from katacsi.host.offloop import off_loop
from katacsi.inventory import collecting
from katacsi.settings import Settings
from katacsi.volumes.publish.marks import Marks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from katacsi.bundle.parts import File

PARTS: Final = (
    Part(
        "versions.json", "katacsi, its packages, Python, the kernel, the system, the tools", machine.versions
    ),
    Part("configuration.json", "the settings in force, without secrets", driver.configuration),
    Part("doctor.json", "what `katacsi doctor` says", driver.findings, timeout_s=120),
    Part("pools.json", "pools, volumes with their facts, snapshots", driver.pools, timeout_s=60),
    Part("marks.json", "what this boot's calls staged, published and froze", driver.marks),
    Part("records.json", "this driver's records for Kata", driver.records),
    Part("mounts.txt", "lines of the mount table that are this driver's", devices.mounts),
    Part("devices.json", "loop and device-mapper devices that are this driver's", devices.block_devices),
    Part("kernel.log", "the kernel's lines about these devices, without what they quote", machine.kernel_log),
    Part("metrics.txt", "the driver's metrics, when it runs", driver.metrics),
)

_NOT_IN_IT: Final = """\
Not in it: secrets, what is on volumes, names of files on them, records of others, and the driver's log, which
is where stderr goes (`kubectl logs`). Names of volumes, pods' UIDs and paths are in it. Look at it before
you give it away.
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle.

    Attributes:
        name: of the folder in the archive, and, with `.tar.gz`, of the archive.
        data: the archive.
        files: what is in it.
    """

    name: str
    data: bytes
    files: tuple[File, ...]

    @property
    def hung(self) -> bool:
        """Whether something that was asked has not answered, and may hold a thread for ever."""
        return any(file.hung for file in self.files)


async def bundle(config: Path, *, node_id: str, host_root: Path) -> Bundle:
    """Make a bundle; what cannot be found out is said in its file, and fails nothing else."""
    subject = await _subject(config, node_id, host_root)
    files = await gathered(PARTS, subject)
    now = time.time()
    name = f"katacsi-support-{node_id}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    contents = redacting.scrubbed(_contents(subject, files, now).encode(), subject.secrets)
    data = await off_loop(_packed, name, [("README.txt", contents), *((f.name, f.data) for f in files)], now)
    return Bundle(name, data, tuple(files))


async def _subject(config: Path, node_id: str, host_root: Path) -> Subject:
    loaded: Settings | None = None
    problem = ""
    try:
        loaded = settings.load(config)
    except KatacsiError as error:
        # Without the lines that it quotes of a file that is no YAML, cut off at will.
        problem = "\n".join(line for line in error.message.splitlines() if not line.startswith("    "))
    marks = Marks((loaded or Settings()).state_path)
    if loaded is not None:
        with suppress(KatacsiError, OSError):  # marks.json says why
            marks = await collecting.marks_of(loaded)
    variables = {
        name: text for name, text in os.environ.items() if name.startswith(settings.ENVIRONMENT_PREFIX)
    }
    secrets = await off_loop(redacting.secrets_of, config, variables)
    secrets |= frozenset(redacting.secrets_in(driver.marked_secret(loaded), is_secret=True))
    return Subject(config, loaded, problem, node_id, host_root, marks, secrets)


def _contents(subject: Subject, files: Sequence[File], now: float) -> str:
    width = max(len(part.name) for part in PARTS)
    problems = {file.name: file.problem for file in files}
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    lines = [f"A support bundle of katacsi, made on {subject.node_id} at {moment}, of {subject.config}", ""]
    for part in PARTS:
        lines.append(f"{part.name:{width}}  {part.about}")
        if problem := problems[part.name]:
            lines.append(f"{'':{width}}  could not be made: {problem}")
    return "\n".join([*lines, "", _NOT_IN_IT])


def _packed(name: str, files: Sequence[tuple[str, bytes]], now: float) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file, data in files:
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size, entry.mtime, entry.mode = len(data), int(now), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
