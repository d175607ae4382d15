"""What the guard asks of the kernel where this machine cannot show it: a host with SELinux."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from katacsi.directvolume import guard
from katacsi.errors import HostError


class Mounts:
    """Stands in for mounts and targets: remembers what was mounted, shows a table of the test's."""

    def __init__(self, *table):
        self.here = []
        self._table = list(table)

    def at(self, _path):
        return self.here

    def table(self):
        return self._table

    def ensure_target_directory(self, path):
        """The folder is there."""

    def mount_tmpfs(self, target, source, options, *, read_only):
        shown = ("ro",) if read_only else ("rw",)
        self.here.append(mounted("tmpfs", source, shown, target=target, asked=options))


def mounted(fs_type, source="none", options=(), super_options=(), **more):
    return SimpleNamespace(
        fs_type=fs_type, source=source, options=options, super_options=super_options, **more
    )


def on_host(monkeypatch, mounts, enforce="/nowhere/enforce", filesystems="/nowhere/filesystems"):
    for module in ("mount", "mounttable", "targets"):
        monkeypatch.setattr(guard, module, mounts)
    monkeypatch.setattr(guard, "_SELINUX_ENFORCE", Path(enforce))
    monkeypatch.setattr(guard, "_FILESYSTEMS", Path(filesystems))
    guard._selinux_in_kernel.cache_clear()
    return mounts


@pytest.fixture(autouse=True)
def own_kernel_again():
    """What a test said of the kernel is not remembered."""
    yield
    guard._selinux_in_kernel.cache_clear()


@pytest.mark.parametrize(
    "table",
    [
        [mounted("selinuxfs")],
        [mounted("xfs", super_options=("rw", "seclabel"))],
        [mounted("xfs", options=("rw", "seclabel"))],
    ],
)
async def test_selinux_is_seen_in_the_mounts(monkeypatch, table):
    """Where any mount shows labels the guard has a context, lest the kubelet ask for a relabel."""
    mounts = on_host(monkeypatch, Mounts(mounted("ext4", options=("rw",)), *table))
    guard.ensure_guard("/t", "v")
    assert "context=" in mounts.here[0].asked


async def test_selinux_is_seen_in_sysfs(monkeypatch, tmp_path):
    """selinuxfs at its usual place is enough."""
    (tmp_path / "enforce").touch()
    mounts = on_host(monkeypatch, Mounts(), tmp_path / "enforce")
    guard.ensure_guard("/t", "v")
    assert "context=" in mounts.here[0].asked


async def test_without_selinux_there_is_no_context(monkeypatch):
    """A kernel without SELinux refuses the option."""
    mounts = on_host(monkeypatch, Mounts(mounted("ext4", options=("rw", "relatime"))))
    guard.ensure_guard("/t", "v")
    assert mounts.here[0].asked == "size=4k,mode=0555"


@pytest.mark.parametrize(
    ("kernel", "asked"), [("nodev\tselinuxfs\n", True), ("nodev\ttmpfs\n\text4\n", False)]
)
async def test_the_kernel_says_whether_there_is_selinux(monkeypatch, tmp_path, kernel, asked):
    """A kernel that runs SELinux offers selinuxfs; where it does not, no mount needs to be looked at."""
    (tmp_path / "filesystems").write_text(kernel)
    mounts = on_host(
        monkeypatch, Mounts(mounted("ext4", options=("seclabel",))), filesystems=tmp_path / "filesystems"
    )
    guard.ensure_guard("/t", "v")
    assert ("context=" in mounts.here[0].asked) is asked


async def test_a_guard_that_became_writable_is_none(monkeypatch):
    """Success would promise EROFS; a guard somebody remounted is reported instead."""
    mounts = on_host(monkeypatch, Mounts())
    mounts.here.append(mounted("tmpfs", "katacsi:v", ("rw",), ("rw",)))
    with pytest.raises(HostError, match="writable"):
        guard.ensure_guard("/t", "v")
