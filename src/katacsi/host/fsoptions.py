"""The mount options that each filesystem's kernel driver knows, so that a wrong one is refused by its name.

An option that the kernel refuses fails each mount, and of a direct volume only inside the guest. Options that
some supported kernel (5.10 and later) knows are legal; a later kernel may have dropped one.

Source: ext4(5) and fs/ext4/super.c (ext4_param_specs), Documentation/admin-guide/xfs.rst and
fs/xfs/xfs_super.c (xfs_fs_parameters), btrfs(5) and fs/btrfs/super.c (btrfs_fs_parameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.errors import InvalidRequest
from katacsi.host import mountoptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: What only a host's security module understands; a guest's kernel without one refuses the mount.
HOST_ONLY: Final = ("context", "fscontext", "defcontext", "rootcontext", "seclabel", "smackfsdef")

#: Filesystem to its own options; one that ends in "=" takes a value.
_KNOWN: Final[Mapping[str, str]] = {
    "ext4": "abort acl auto_da_alloc auto_da_alloc= barrier barrier= block_validity bsddf bsdgroups commit= "
    "data= data_err= dax dax= debug delalloc dioread_lock dioread_nolock discard errors= grpid grpjquota= "
    "grpquota i_version init_itable init_itable= inlinecrypt inode_readahead_blks= journal_async_commit "
    "journal_checksum journal_dev= journal_ioprio= journal_path= jqfmt= max_batch_time= max_dir_size_kb= "
    "mb_optimize_scan= min_batch_time= minixdf nodiscard noacl noauto_da_alloc nobarrier noblock_validity "
    "nodelalloc nodioread_nolock nogrpid noinit_itable nojournal_checksum noload nombcache no_mbcache "
    "no_prefetch_block_bitmaps noquota norecovery nouid32 nouser_xattr nowarn_on_error "
    "prefetch_block_bitmaps prjquota quota resgid= resuid= sb= stripe= sysvgroups user_xattr usrjquota= "
    "usrquota warn_on_error",
    "xfs": "allocsize= attr2 bsdgroups dax dax= discard filestreams gqnoenforce gquota grpid grpquota ikeep "
    "inode32 inode64 largeio lifetime logbsize= logbufs= logdev= max_open_zones= noalign noattr2 nodiscard "
    "nogrpid noikeep nolargeio nolifetime norecovery noquota nouuid pqnoenforce pquota prjquota qnoenforce "
    "quota rtdev= sunit= swalloc swidth= sysvgroups uqnoenforce uquota usrquota wsync",
    "btrfs": "acl autodefrag barrier clear_cache commit= compress compress-force compress-force= compress= "
    "datacow datasum degraded device= discard discard= enospc_debug fatal_errors= flushoncommit max_inline= "
    "metadata_ratio= noacl noautodefrag nobarrier nodatacow nodatasum nodiscard noenospc_debug "
    "noflushoncommit nologreplay norecovery nospace_cache nossd nossd_spread notreelog ratio= "
    "rescan_uuid_tree rescue= skip_balance space_cache space_cache= ssd ssd_spread subvol= subvolid= "
    "thread_pool= treelog usebackuproot user_subvol_rm_allowed",
}


def is_host_only(option: str) -> bool:
    """Whether an option means something to a host's security module, and nothing to a guest."""
    return option.partition("=")[0] in HOST_ONLY


def check(flags: Sequence[str], fs_type: str) -> None:
    """Refuse an option that no kernel takes for this filesystem, and what is no option of a mount at all.

    Raises:
        InvalidRequest: the option by its name, with those that are legal.
    """
    mountoptions.split_flags(flags)
    known = _KNOWN.get(fs_type, "").split()
    if not known:
        return
    for option in mountoptions.of_filesystem(flags):
        name, sign, _ = option.partition("=")
        if f"{name}{sign}" not in known and not is_host_only(option):
            raise InvalidRequest(
                "mount_flags", f"{option!r} is no mount option of {fs_type}; {_hint(name, known)}"
            )


def _hint(name: str, known: Iterable[str]) -> str:
    if f"{name}=" in known:
        return f"{name} takes a value"
    if name in known:
        return f"{name} takes no value"
    return f"it knows {' '.join(sorted(known))}"
