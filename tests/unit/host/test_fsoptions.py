"""Mount options, by what each filesystem knows."""

import pytest

from katacsi.errors import InvalidRequest
from katacsi.host import fsoptions


@pytest.mark.parametrize(
    ("fs_type", "flags"),
    [
        ("ext4", ["noatime", "data=ordered,errors=remount-ro", "discard", "x-mount.mkdir", "nofail"]),
        ("xfs", ["nouuid", "logbsize=256k", "inode64", "lazytime"]),
        ("btrfs", ["compress=zstd:3", "ssd", "space_cache=v2"]),
        ("ext4", ['context="system_u:object_r:container_file_t:s0:c1,c2"']),
        ("something-else", ["whatever"]),
    ],
)
def test_what_a_kernel_knows_is_legal(fs_type, flags):
    """The filesystem's own options, the general ones, those of fstab and of SELinux."""
    fsoptions.check(flags, fs_type)


@pytest.mark.parametrize(
    ("fs_type", "option", "hint"),
    [
        ("ext4", "nouuid", "it knows abort acl"),
        ("xfs", "data=ordered", "it knows allocsize="),
        ("ext4", "commit", "commit takes a value"),
        ("xfs", "nouuid=1", "nouuid takes no value"),
        ("btrfs", "compres=zstd", "it knows acl"),
    ],
)
def test_what_no_kernel_knows_is_refused_by_name(fs_type, option, hint):
    """The message names the option, the filesystem and what is legal."""
    with pytest.raises(InvalidRequest, match=f"'{option}' is no mount option of {fs_type}.*{hint}"):
        fsoptions.check(["noatime", option], fs_type)
