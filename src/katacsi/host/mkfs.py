"""Makes filesystems that also older kernels mount, quickly, with a UUID chosen by the caller.

The features of each filesystem are named here instead of being left to the installed tool: a volume made by
a newer tool must still be mountable by the kernel of a Kata guest (5.10 and later).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from katacsi.errors import HostError, InvalidRequest
from katacsi.host import command, superblock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SUPPORTED: Final = ("ext4", "xfs", "btrfs")

#: The smallest device, in bytes, on which the tool makes a filesystem as we ask for it: ext4 with a journal;
#: xfs as xfsprogs 5.19 and later insist on; btrfs with duplicated metadata.
_MINIMUM_SIZES: Final[Mapping[str, int]] = {"ext4": 8 << 20, "xfs": 300 << 20, "btrfs": 114_294_784}

# What e2fsprogs 1.44 to 1.46 made of ext4 by default; 1.47 adds orphan_file (Linux 5.15) and
# metadata_csum_seed. "none" drops whatever /etc/mke2fs.conf says.
_EXT4_FEATURES: Final = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize,metadata_csum"
)
# What newer mkfs.xfs turns on by default and older kernels refuse: option, key, first Linux version with it.
_XFS_LATE_FEATURES: Final = (("-i", "nrext64", "5.19"), ("-i", "exchange", "6.10"), ("-n", "parent", "6.10"))
# Likewise of mkfs.btrfs; here only the host's kernel, which may be older than the tools of an image, counts.
_BTRFS_LATE_FEATURES: Final = ("block-group-tree", "raid-stripe-tree", "squota")

_ENVIRONMENT: Final[Mapping[str, str]] = {
    # For some seconds libblkid believes what its cache says of a former device of the same name.
    "BLKID_FILE": "/dev/null",
    # Where an ext4 was begun, mke2fs would keep the blocks that it overwrites in a file on the node's disk.
    "E2FSPROGS_UNDO_DIR": "none",
    "LC_ALL": "C",  # which has no files to be read first
}

#: What users may add: filesystem, option, forms of its comma-separated values; N stands for a number.
_LEGAL: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "ext4": {
        "-E": ("stride=N", "stripe_width=N", "resize=N", "packed_meta_blocks=0", "packed_meta_blocks=1",
               "num_backup_sb=0", "num_backup_sb=1", "num_backup_sb=2", "lazy_itable_init=0",
               "lazy_itable_init=1", "lazy_journal_init=0"),
        "-G": ("N",),
        "-I": ("256", "512", "1024"),
        "-J": ("size=N", "fast_commit_size=N"),
        "-N": ("N",),
        "-O": ("^has_journal", "^dir_index", "^64bit", "^flex_bg", "^huge_file", "^resize_inode",
               "^metadata_csum", "casefold", "encrypt", "fast_commit", "inline_data", "large_dir",
               "metadata_csum_seed", "orphan_file", "project", "quota", "sparse_super2", "verity"),
        "-T": ("big", "default", "huge", "largefile", "largefile4", "news", "small"),
        "-e": ("continue", "remount-ro"),
        "-i": ("N",),
        "-m": ("0", "1", "2", "3", "4", "5", "10"),
    },
    "xfs": {
        "-d": ("agcount=N", "agsize=N", "sunit=N", "swidth=N", "su=N", "sw=N", "noalign"),
        "-i": ("size=N", "perblock=N", "maxpct=N", "sparse=0", "sparse=1", "nrext64=0", "nrext64=1",
               "exchange=0", "exchange=1"),
        "-l": ("size=N", "sunit=N", "su=N"),
        "-m": ("bigtime=0", "bigtime=1", "finobt=0", "finobt=1", "inobtcount=0", "inobtcount=1", "reflink=0",
               "reflink=1", "rmapbt=0", "rmapbt=1"),
        "-n": ("size=N", "parent=0", "parent=1"),
    },
    "btrfs": {
        "--csum": ("crc32c", "xxhash", "sha256", "blake2"),
        "-O": ("^no-holes", "^free-space-tree", "block-group-tree", "mixed-bg", "quota", "squota"),
        "-d": ("single", "dup"),
        "-m": ("single", "dup"),
        "-n": ("N",),
    },
}  # fmt: skip
#: Numbers as each tool reads them.
_NUMBERS: Final[Mapping[str, str]] = {
    "ext4": r"\d{1,12}",
    "xfs": r"\d{1,12}[kmgsb]?",
    "btrfs": r"\d{1,12}[kK]?",
}


def minimum_size(fs_type: str) -> int:
    """Give the size in bytes of the smallest device for this filesystem.

    Raises:
        InvalidRequest: not one of `SUPPORTED`.
    """
    _require_supported(fs_type)
    return _MINIMUM_SIZES[fs_type]


def validate_options(fs_type: str, text: str) -> tuple[str, ...]:
    """Split and check what a StorageClass adds to mkfs's command line.

    Legal are the options that shape a filesystem; the ones that name its UUID, label, size or device, that
    force, or that undo what `make` promises are not.

    Raises:
        ValueError: an option or value is not legal; the message says which are.
        InvalidRequest: not one of `SUPPORTED`.
    """
    _require_supported(fs_type)
    legal = _LEGAL[fs_type]
    words = text.split()
    names = words[::2]
    for position, name in enumerate(names):
        if name not in legal:
            raise ValueError(
                f"{name!r} is not legal for {fs_type}; legal are {' '.join(legal)}, then a value"
            )
        if name in names[:position]:
            raise ValueError(f"{name} is given twice; join its values with commas")
    if len(words) % 2:
        raise ValueError(f"{words[-1]} has no value; legal are {' '.join(legal[words[-1]])}")
    for name, value in zip(names, words[1::2], strict=True):
        _check_value(fs_type, name, value)
    return tuple(words)


def make(
    device: Path,
    fs_type: str,
    uuid: str,
    *,
    options: Sequence[str] = (),
    zeroed: bool = False,
    timeout_s: float = 600.0,
) -> None:
    """Make a filesystem on a device that the caller has proven to hold nothing worth keeping.

    What is there is overwritten without a question. The device's blocks are not discarded, so a thick
    volume stays thick; what mkfs may leave for later is left (ext4's inode tables), so that the time hardly
    depends on the size. ext4 reserves no blocks for root.

    Args:
        device: the block device (or image file).
        fs_type: one of `SUPPORTED`.
        uuid: the filesystem's, in the 36-digit form.
        options: of `validate_options`.
        zeroed: the whole device is known to read as zero, or to hold at most what an interrupted call with
            the same arguments left: ext4 then clears no journal, and the kernel that mounts it clears no
            inode tables, which keeps a thin volume thin.
        timeout_s: seconds.

    Raises:
        InvalidRequest: not one of `SUPPORTED`.
        CommandError: mkfs failed; its words are in the message.
    """
    argv = command_line(device, fs_type, uuid, options=options, zeroed=zeroed)
    if fs_type == "btrfs":
        _forget_btrfs(device)
    command.run(argv, timeout_s=timeout_s, environment=_ENVIRONMENT)


def command_line(
    device: Path, fs_type: str, uuid: str, *, options: Sequence[str] = (), zeroed: bool = False
) -> list[str | Path]:
    """Give the command that `make` runs; the arguments and the errors are those of `make`."""
    _require_supported(fs_type)
    given = dict(zip(options[::2], options[1::2], strict=True))
    return [f"mkfs.{fs_type}", *_ARGUMENTS[fs_type](uuid, given, zeroed=zeroed), device]


def _ext4_arguments(uuid: str, given: Mapping[str, str], *, zeroed: bool) -> list[str]:
    extended = "nodiscard,lazy_itable_init=1"
    if zeroed and _MKE2FS_PREZEROED.search(_says("mkfs.ext4", "-V")):
        # More than lazy: the inode tables count as written, too. Being lazy besides would change nothing but
        # have mke2fs flush the device once more, to look whether there is something to keep for an undo.
        extended = "nodiscard,lazy_itable_init=0,assume_storage_prezeroed=1"
    elif zeroed:
        extended += ",lazy_journal_init=1"
    # Blocks of 4096 bytes fit every device; the tool would take 1024 for a small one with sectors of 512,
    # and a copy of it on a device with sectors of 4096 would not mount.
    ours = {"-b": "4096", "-m": "0", "-U": uuid, "-O": _EXT4_FEATURES, "-E": extended}
    # mke2fs heeds the last -O and -E only, so the user's values join ours.
    joined = {key: f"{ours[key]},{given[key]}" for key in ("-O", "-E") if key in given}
    return ["-F", "-q", *_words({**ours, **given, **joined})]


def _xfs_arguments(uuid: str, given: Mapping[str, str], *, zeroed: bool) -> list[str]:
    del zeroed  # mkfs.xfs always clears its log
    # -s: sectors of 4096 bytes, for the same reason as ext4's blocks.
    arguments = ["-q", "-f", "-K", "-m", f"uuid={uuid}", "-s", "size=4096", *_words(given)]
    for option, key, _ in _XFS_LATE_FEATURES:
        # Named twice is an error to mkfs.xfs, and so is a key that it does not know.
        if f"{key}=" not in given.get(option, "") and f"{key}=0|1" in _says("mkfs.xfs"):
            arguments += [option, f"{key}=0"]
    return arguments


def _btrfs_arguments(uuid: str, given: Mapping[str, str], *, zeroed: bool) -> list[str]:
    del zeroed  # mkfs.btrfs writes its few trees only
    arguments = ["-q", "-f", "-K", "-U", uuid, "-s", "4096", *_words(given)]
    for feature in _BTRFS_LATE_FEATURES:
        known = f"\n{feature} " in _says("mkfs.btrfs", "-O", "list-all")
        if known and feature not in given.get("-O", ""):
            arguments += ["-O", f"^{feature}"]
    return arguments


def _forget_btrfs(device: Path) -> None:
    """Clear what an interrupted mkfs.btrfs left, as it refuses a UUID that any device has, even its own."""
    found = superblock.read(device)
    if found is None or found.fs_type != "btrfs":
        return
    try:
        descriptor = os.open(device, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, bytes(4096), superblock.BTRFS_OFFSET)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"{device}: cannot be cleared for mkfs.btrfs: {error.strerror}") from error


_ARGUMENTS: Final = {"ext4": _ext4_arguments, "xfs": _xfs_arguments, "btrfs": _btrfs_arguments}

_MKE2FS_PREZEROED: Final = re.compile(r"mke2fs (1\.(4[7-9]|[5-9]\d)|[2-9])")
_descriptions: dict[str, str] = {}


def _says(tool: str, *arguments: str) -> str:
    """Give what the installed tool says of itself; it is asked once in the life of the process."""
    if tool not in _descriptions:
        said = command.run([tool, *arguments], timeout_s=30, ok=range(256))
        _descriptions[tool] = said.stdout.decode(errors="replace") + said.stderr
    return _descriptions[tool]


def _words(options: Mapping[str, str]) -> Iterable[str]:
    return (word for pair in options.items() for word in pair)


def _require_supported(fs_type: str) -> None:
    if fs_type not in SUPPORTED:
        raise InvalidRequest("fs_type", f"{fs_type!r} is none of {', '.join(SUPPORTED)}")


def _check_value(fs_type: str, name: str, value: str) -> None:
    forms = _LEGAL[fs_type][name]
    pattern = "|".join(re.escape(form).replace("N", _NUMBERS[fs_type]) for form in forms)
    is_list = name == "-O" or any("=" in form for form in forms)
    for part in value.split(",") if is_list else (value,):
        if not re.fullmatch(pattern, part, re.ASCII):
            raise ValueError(
                f"{name} {part!r} is not legal for {fs_type}; legal are {' '.join(forms)} (N: a number)"
            )
