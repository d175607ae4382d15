"""Mount options as people write them, turned into what the kernel takes."""

import pytest

from katacsi.errors import InvalidRequest
from katacsi.host import _linux as linux
from katacsi.host import mountoptions


@pytest.mark.parametrize(
    ("flags", "bits", "data"),
    [
        pytest.param([], 0, "", id="none"),
        pytest.param(
            ["defaults", "rw", "_netdev", "nofail", "x-systemd.automount"], 0, "", id="for-programs"
        ),
        pytest.param(["ro", "noatime"], linux.MS_RDONLY | linux.MS_NOATIME, "", id="bits"),
        pytest.param(["discard", "nouuid"], 0, "discard,nouuid", id="the-filesystems-own"),
        pytest.param(["nosuid,nodev,discard"], linux.MS_NOSUID | linux.MS_NODEV, "discard", id="joined"),
        pytest.param(["noexec", "exec"], 0, "", id="the-last-wins"),
        pytest.param(["ro", "rw"], 0, "", id="writable-at-last"),
        pytest.param(
            ['context="system_u:object_r:x_t:s0:c1,c2"', "ro"],
            linux.MS_RDONLY,
            'context="system_u:object_r:x_t:s0:c1,c2"',
            id="a-comma-in-quotes",
        ),
        pytest.param(["", " noatime ", ","], linux.MS_NOATIME, "", id="blanks"),
    ],
)
def test_options_are_split_as_mount_does(flags, bits, data):
    """Each option goes where mount(8) would send it."""
    assert mountoptions.split_flags(flags) == (bits, data)


@pytest.mark.parametrize("option", ["bind", "remount", "move", "rshared", "loop"])
def test_no_option_makes_another_call_of_it(option):
    """An option from a StorageClass cannot turn a mount into a bind, a move or a remount."""
    with pytest.raises(InvalidRequest, match=option):
        mountoptions.split_flags(["noatime," + option])


def test_options_are_never_cut_off():
    """Options beyond the page that the kernel reads are refused, as it would drop them in silence."""
    assert mountoptions.split_flags(["x" * 4095])[1] == "x" * 4095
    with pytest.raises(InvalidRequest, match="4095"):
        mountoptions.split_flags(["x" * 4096])


@pytest.mark.parametrize(
    ("flags", "read_only", "add", "remove"),
    [
        pytest.param([], True, linux.MOUNT_ATTR_RDONLY, 0, id="read-only"),
        pytest.param(["rw"], True, linux.MOUNT_ATTR_RDONLY, 0, id="read-only-whatever-the-flags"),
        pytest.param(
            ["discard", "nosuid"], False, linux.MOUNT_ATTR_NOSUID, 0, id="the-filesystems-own-dropped"
        ),
        pytest.param(
            ["noatime"],
            False,
            linux.MOUNT_ATTR_NOATIME,
            linux.MOUNT_ATTR_ATIME,
            id="the-atime-field-as-a-whole",
        ),
        pytest.param(["nosuid", "suid"], False, 0, linux.MOUNT_ATTR_NOSUID, id="the-last-wins"),
    ],
)
def test_a_bind_gets_the_options_it_can_have(flags, read_only, add, remove):
    """Flags of a mount become its attributes; flags of the filesystem are left to the filesystem."""
    assert mountoptions.bind_attributes(flags, read_only=read_only) == (add, remove)
