"""Runs LVM: its own configuration, plain answers, errors in words; nothing of the host's configuration.

Source of the options: lvm.conf(5), lvmconfig(8) `--typeconfig full --withcomments`, measured with 2.03.16.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm import report
from katacsi.backends.lvm.settings import Exec
from katacsi.errors import HostError, KatacsiError, OutOfSpace
from katacsi.host import command
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.backends.lvm.report import Group
    from katacsi.backends.lvm.settings import LvmSettings

#: LVM's exit code for whatever failed: absent, taken, no room, nothing to do. What it was, a new report says.
_FAILED: Final = 5

#: Where LVM looks for lvm.conf, lvmlocal.conf, tags' files and profiles. An empty name forbids them all, but
#: backups of metadata with them; so those come with a folder in which nobody can make a file.
_NO_FILES: Final = "/sys/kernel"

#: Devices on which guests, or other storage, keep volume groups that are no business of the host.
_FOREIGN: Final = ("loop", "rbd", "drbd", "nbd", "zram", "zd")

#: The inode of the first IPC namespace: <linux/proc_ns.h>, PROC_IPC_INIT_INO.
_HOST_IPC: Final = 0xEFFFFFFF
#: The node's folders, as process 1 sees them.
_HOST_ROOT: Final = Path("/proc/1/root")

_VERSION: Final = re.compile(r"LVM version:\s*(\S+)")
_NO_ROOM = re.compile(
    r"insufficient (free space|suitable|allocatable)|not enough free|no free (extents|space)|"
    r"free space is not sufficient|Unable to allocate extents",
    re.IGNORECASE,
)
_NO_METADATA_ROOM = re.compile(r"metadata too large|exceeds maximum metadata size", re.IGNORECASE)


class Lvm:
    """LVM's command line, for one pool."""

    def __init__(self, settings: LvmSettings) -> None:
        self._program = _program(settings)
        self._timeout_s = settings.command_timeout
        self._configuration = configuration(settings, udev=udev_is_there(settings))
        self._environment = environment(settings)

    async def version(self) -> str:
        """Say which LVM this is, such as `2.03.16(2)`; empty: it does not say."""
        found = _VERSION.search((await self._run(["version"])).decode(errors="replace"))
        return found[1] if found else ""

    async def find_groups(self) -> Sequence[Mapping[str, str]]:
        """List the volume groups of this host, foreign ones too, with what tells them apart."""
        fields = "vg_name,vg_uuid,vg_tags,vg_systemid,vg_lock_type,vg_exported"
        words = ["vgs", "--foreign", "--shared", "--options", fields, *_JSON]
        answer = await self._run(words)
        return report.sections(answer, "the volume groups").get("vg", [])

    async def report(self, group: str) -> Group | None:
        """Give the whole state of a group; None: LVM says that there is none of this name."""
        words = ["fullreport", *_JSON]
        for section, fields in report.FIELDS.items():
            words += ["--configreport", section, "--options", fields]
        try:
            answer = await self._run([*words, group])
        except command.CommandError as error:
            if error.returncode == _FAILED and "not found" in error.stderr:
                return None
            raise explained(error) from error
        return report.parse(answer, group)

    async def run(self, *words: str) -> None:
        """Change something.

        Raises:
            OutOfSpace: LVM says that there is no room.
            HostError: anything else; look at the group before going on, for part of it may be done.
        """
        try:
            await self._run([*words])
        except command.CommandError as error:
            raise explained(error) from error

    async def _run(self, words: list[str]) -> bytes:
        argv = [*self._program, *words, "--config", self._configuration]
        completed = await off_loop(
            command.run, argv, timeout_s=self._timeout_s, environment=self._environment
        )
        return completed.stdout


_JSON: Final = ("--reportformat", "json", "--units", "b", "--nosuffix", "--binary")


def explained(error: command.CommandError) -> KatacsiError:
    """Turn a failed command into an error that leaves LVM's warnings out."""
    said = [line.strip() for line in error.stderr.splitlines()]
    said = [line for line in said if line and not line.startswith("WARNING:")]
    if isinstance(error, command.CommandTimeout) or not said:
        return error
    message = f"lvm: {'; '.join(said)}"
    if _NO_METADATA_ROOM.search(message):
        return OutOfSpace(
            f"the metadata area of its disks is full ({message}); delete volumes or snapshots, take tags "
            "off, or replace the disks by such with a larger one (pvcreate --metadatasize)"
        )
    if _NO_ROOM.search(message):
        return OutOfSpace(f"{message}; delete volumes, or enlarge the volume group (vgextend)")
    return HostError(message)


def environment(settings: LvmSettings) -> dict[str, str]:
    """Give LVM's environment."""
    variables = {
        "LC_ALL": "C",  # English messages
        "LVM_SYSTEM_DIR": _NO_FILES if settings.archive_directory else "",
        "LVM_SUPPRESS_FD_WARNINGS": "1",
    }
    if not udev_is_there(settings):
        variables["DM_DISABLE_UDEV"] = "1"
    return variables


def configuration(settings: LvmSettings, *, udev: bool) -> str:
    """Give the configuration that stands in for lvm.conf."""
    sync = int(udev)
    archive = settings.archive_directory
    folder = str(archive or "")
    return " ".join(
        (
            "devices {",
            f"global_filter = [ {_filter(settings)} ]",
            # The file would win over the filter. Unknown to LVM before 2.03.12, which has no such file.
            "use_devicesfile = 0",
            # What lies on our volumes is their guests' and never looked at.
            "scan_lvs = 0",
            'hints = "none"',
            "obtain_device_list_from_udev = 0",
            'external_device_info_source = "none"',
            "issue_discards = 0",
            "} activation {",
            f"udev_sync = {sync}",
            f"udev_rules = {sync}",
            "verify_udev_operations = 0",
            # There is no dmeventd here: katacsi watches thin pools itself.
            "monitoring = 0",
            f"thin_pool_autoextend_threshold = {settings.thin_autoextend_threshold}",
            f"thin_pool_autoextend_percent = {settings.thin_autoextend_percent}",
            "} global {",
            f'locking_dir = "{settings.lock_directory}"',
            "use_lvmpolld = 0",
            "notify_dbus = 0",
            "} backup {",
            f"backup = {int(archive is not None)}",
            f"archive = {int(archive is not None)}",
            *([f'backup_dir = "{folder}/backup" archive_dir = "{folder}/archive"'] if archive else []),
            "}",
        )
    )


def _filter(settings: LvmSettings) -> str:
    if settings.devices:
        allowed = [re.escape(pattern).replace(r"\*", "[^/]*") for pattern in settings.devices]
        return ", ".join([*(f'"a|^{pattern}$|"' for pattern in allowed), '"r|.*|"'])
    return ", ".join(f'"r|^/dev/{name}[0-9]|"' for name in _FOREIGN)


def _program(settings: LvmSettings) -> list[str]:
    """Say how LVM is started: here, or in the host's namespaces."""
    here = [settings.program]
    there = [
        "nsenter",
        "--target",
        "1",
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--",
        settings.program,
    ]
    if settings.exec is Exec.HOST:
        return there
    if (
        settings.exec is Exec.AUTO
        and shutil.which(settings.program, path=command.ENVIRONMENT["PATH"]) is None
    ):
        # Without LVM here and with hostPID, process 1 has another root filesystem than katacsi.
        with_host_pid = not _same_namespace("mnt")
        return there if with_host_pid else here
    return here


def _same_namespace(kind: str) -> bool:
    try:
        return os.readlink(f"/proc/1/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115 -- a magic link
    except OSError:
        return True


def udev_is_there(settings: LvmSettings) -> bool:
    """Whether LVM may wait for udev: it runs, and shares the semaphores on which LVM would wait.

    Without either LVM would wait for ever (lvm2 #70, #170); it makes the device nodes itself then.
    """
    if _program(settings)[0] == "nsenter":
        # There it has the host's semaphores, whatever ours are.
        return (_HOST_ROOT / "run/udev/control").exists()
    try:
        shared = Path("/proc/self/ns/ipc").stat().st_ino == _HOST_IPC
    except OSError:
        return False
    return shared and Path("/run/udev/control").exists()
