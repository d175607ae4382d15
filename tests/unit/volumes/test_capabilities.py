"""What a volume can be used for."""

import pytest

from katacsi.backends.api import Facts, FormatState, Volume
from katacsi.errors import InvalidRequest, Precondition, SizeOutOfRange
from katacsi.model import AccessMode, AccessType, Capability, VolumeId
from katacsi.volumes import capabilities
from katacsi.volumes.publish.mode import Asked

MIB = 1 << 20


def mount(fs_type="", mode=AccessMode.SINGLE_NODE_MULTI_WRITER):
    """Make a capability for a filesystem."""
    return Capability(AccessType.MOUNT, mode, fs_type)


BLOCK = Capability(AccessType.BLOCK, AccessMode.SINGLE_NODE_WRITER)


@pytest.mark.parametrize("mode", AccessMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("access", AccessType, ids=lambda access: access.value)
@pytest.mark.parametrize("asked", Asked, ids=lambda asked: asked.value)
def test_only_single_node_modes(mode, access, asked):
    """Every SINGLE_NODE mode is taken and every MULTI_NODE mode refused, in all modes of publishing."""
    capability = Capability(access, mode)
    if mode.value.startswith("SINGLE_NODE"):
        capabilities.check(capability, asked)
    else:
        with pytest.raises(InvalidRequest, match="ReadWriteOnce") as refusal:
            capabilities.check(capability, asked)
        assert refusal.value.field == "volume_capability.access_mode"


@pytest.mark.parametrize(
    ("fs_type", "asked", "taken"),
    [
        ("", Asked.DIRECT, True),
        ("ext4", Asked.DIRECT, True),
        ("xfs", Asked.DIRECT, True),
        ("btrfs", Asked.DIRECT, False),
        ("btrfs", Asked.AUTO, True),
        ("btrfs", Asked.HOST, True),
        ("ext3", Asked.HOST, False),
        ("ntfs", Asked.AUTO, False),
        ("EXT4", Asked.AUTO, False),
    ],
)
def test_filesystems_by_mode(fs_type, asked, taken):
    """The host mounts three filesystems, Kata's guest kernel two; the refusal lists them."""
    if taken:
        capabilities.check(mount(fs_type), asked)
    else:
        with pytest.raises(InvalidRequest, match="xfs") as refusal:
            capabilities.check(mount(fs_type), asked)
        assert refusal.value.field == "volume_capability.mount.fs_type"


@pytest.mark.parametrize(
    ("wanted", "filesystem"),
    [
        ([mount("xfs"), mount()], "xfs"),
        ([mount()], "ext4"),
        ([BLOCK], ""),
        ([BLOCK, mount("btrfs")], "btrfs"),
        ([], ""),
    ],
)
def test_the_filesystem_of_a_new_volume(wanted, filesystem):
    """The one that is named, else the setting's; a raw volume has none."""
    assert capabilities.filesystem_of(wanted, "ext4") == filesystem


def test_two_filesystems_are_refused():
    """A device holds one filesystem."""
    with pytest.raises(InvalidRequest, match="ext4, xfs"):
        capabilities.filesystem_of([mount("xfs"), mount("ext4")], "ext4")


@pytest.mark.parametrize(
    ("fs_type", "size", "fits"),
    [
        ("xfs", 300 * MIB, True),
        ("xfs", 300 * MIB - 1, False),
        ("ext4", 8 * MIB, True),
        ("ext4", 8 * MIB - 1, False),
        ("btrfs", 100 * MIB, False),
        ("", 1, True),
    ],
)
def test_a_size_below_the_filesystem_s_least(fs_type, size, fits):
    """A volume in which its filesystem cannot be made is refused at creation, with the least size."""
    if fits:
        capabilities.check_size(fs_type, size)
    else:
        with pytest.raises(SizeOutOfRange, match=str(capabilities.least_size(fs_type))):
            capabilities.check_size(fs_type, size)


def volume(attributes, facts):
    """Make a volume with these attributes and facts."""
    return Volume(VolumeId("default", "0a1b2c3d", "x"), "x", 8 * MIB, facts=facts, attributes=attributes)


FORMATTED = Facts(FormatState.FORMATTED, "xfs", "u")


def test_a_formatted_volume_is_not_used_raw():
    """Its filesystem would be lost; the message shows the way."""
    with pytest.raises(Precondition, match="volumeMode Filesystem"):
        capabilities.check_kind(volume({"filesystem": "xfs"}, FORMATTED), BLOCK)
    with pytest.raises(Precondition, match="volumeMode Block"):
        capabilities.check_kind(volume({}, Facts(raw_written=True)), mount())
    capabilities.check_kind(volume({"filesystem": "xfs"}, FORMATTED), mount())
    capabilities.check_kind(volume({}, Facts()), BLOCK)


@pytest.mark.parametrize(
    ("named", "facts", "attributes", "meant"),
    [
        ("btrfs", FORMATTED, {"filesystem": "xfs"}, "btrfs"),
        ("", FORMATTED, {"filesystem": "ext4"}, "xfs"),
        ("", Facts(), {"filesystem": "btrfs"}, "btrfs"),
        ("", Facts(), {}, "ext4"),
    ],
)
def test_the_filesystem_that_a_call_means(named, facts, attributes, meant):
    """The one it names, else the one that is there, else the one that was asked for at creation."""
    assert capabilities.filesystem_for(volume(attributes, facts), mount(named), "ext4") == meant


@pytest.mark.parametrize("options", ["-F", "-U random", "-m", "/dev/sda", "-O ^has_journal; reboot"])
def test_mkfs_options_that_would_break_a_promise(options):
    """Options that force, rename or leave the list are refused by the parameter's name."""
    with pytest.raises(InvalidRequest) as refusal:
        capabilities.check_mkfs_options("ext4", options)
    assert refusal.value.field == "parameters[katacsi.io/mkfs-options]"


def test_mkfs_options_of_a_raw_volume_do_not_count():
    """One StorageClass serves both volume modes."""
    capabilities.check_mkfs_options("", "-i 4096")
    capabilities.check_mkfs_options("ext4", "-i 4096")
