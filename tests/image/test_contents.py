"""What is in the image, and above all what is not."""

from __future__ import annotations

import stat

from katacsi import __version__
from katacsi.host.command import PACKAGES

MB = 10**6
#: Generous; it had 113 MB, and its upper layer 5.
MOST_BYTES = 150 * MB
MOST_BYTES_OF_THE_DRIVER = 15 * MB

#: Programs of the image, beside those that katacsi names itself.
OTHERS = {
    "katacsi": "the driver",
    "mke2fs": "mkfs.ext4 is a link to it",
    "nsenter": "the node's LVM",
    "pdata_tools": "thin_check is a link to it",
    "python3": "a link to the next",
    "python3.": "the driver",
    "thin_check": "lvm runs it",
    "tini": "process 1",
}
#: With the links that lead into /usr.
PROGRAM_FOLDERS = ("usr/", "bin/", "sbin/", "lib/", "lib64/")
#: The node's own, by its setting.
NOT_IN_THE_IMAGE = {"kata-runtime"}


def test_it_is_small(image):
    """The image is a tenth of a gigabyte, and an upgrade of the driver alone pulls little of it."""
    print(
        f"the image: {sum(image.layers) / MB:.1f} MB, layers {[f'{size / MB:.1f}' for size in image.layers]}"
    )
    assert sum(image.layers) < MOST_BYTES
    assert len(image.layers) == 2
    assert image.layers[-1] < MOST_BYTES_OF_THE_DRIVER


def test_programs_are_those_that_the_driver_runs(image):
    """Each program has its reason: no shell, no package manager, no compiler, no pip."""
    found = set()
    for folder in (
        "usr/bin",
        "usr/sbin",
        "usr/local/bin",
        "usr/local/sbin",
        "opt",
        "usr/libexec",
        "usr/games",
    ):
        if (image.root / folder).is_dir():
            found |= {
                "python3." if path.name.startswith("python3.") else path.name
                for path in (image.root / folder).iterdir()
            }
    assert found == (set(PACKAGES) - NOT_IN_THE_IMAGE) | set(OTHERS)


def test_nothing_of_the_build_is_left(image):
    """No documentation but licences, no locale but C.UTF-8, no cache, list or log, no settings of mirrors."""
    documents = {path.name for path in (image.root / "usr/share").rglob("*") if path.is_file()}
    assert documents == {"copyright"}
    assert [path.name for path in (image.root / "usr/lib/locale").iterdir()] == ["C.utf8"]
    there = {str(path.relative_to(image.root)) for path in image.root.glob("*/*")}
    assert {name for name in there if not name.startswith(PROGRAM_FOLDERS)} == {
        "etc/debian_version",
        "etc/group",
        "etc/mke2fs.conf",
        "etc/nsswitch.conf",
        "etc/os-release",
        "etc/passwd",
        "var/lib",
        "var/tmp",
    }
    tools = {"pip", "setuptools", "hatchling", "ensurepip", "test"}
    assert [path for path in image.root.rglob("*") if path.name in tools] == []


def test_nothing_is_set_uid(image):
    """No file of the image gives its caller another user, and nobody but root can change one."""
    wrong = []
    for path in image.root.rglob("*"):
        status = path.lstat()
        loose = status.st_mode & 0o022 and not path.is_symlink() and not status.st_mode & stat.S_ISVTX
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) or loose or status.st_uid:
            wrong.append((str(path), oct(status.st_mode)))
    assert wrong == []


def test_all_python_is_compiled(image):
    """Each module has its compiled form, which is taken whatever its time: nobody can write a new one."""
    sources = [
        path
        for path in image.root.rglob("*.py")
        # Not modules: a package's example for another Python, a template.
        if path.is_file() and path.stem.isidentifier()
    ]
    assert len(sources) > 1000
    loose = []
    for source in sources:
        compiled = list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc"))
        # PEP 552: bit 0 says by hash, bit 1 that the hash is to be checked.
        if not compiled or int.from_bytes(compiled[0].read_bytes()[4:8], "little") != 1:
            loose.append(str(source.relative_to(image.root)))
    assert loose == []


def test_licences_and_package_list_are_there(image):
    """Each Debian package that a file is from has its licence, and its entry for scanners."""
    entries = {path.name for path in (image.root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "lvm2", "e2fsprogs", "xfsprogs", "btrfs-progs", "tini"} <= entries
    assert {path.parent.name for path in (image.root / "usr/share/doc").glob("*/copyright")} == entries
    for path in (image.root / "var/lib/dpkg/status.d").iterdir():
        assert "\nVersion: " in path.read_text("utf-8")


def test_it_says_what_it_is(image):
    """Labels name the driver, its version and its commit; process 1 is tini, which starts katacsi."""
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.title"] == "katacsi"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"]
    assert image.config["Entrypoint"] == ["/usr/bin/tini", "-s", "--", "/usr/local/bin/katacsi"]
