"""The keys that Kata's runtimes know where they refuse every other: such a key fails each pod of a handler.

Everywhere else a key that is not known is ignored. Source: kata-containers 4.1.0 (7c6ba40c54). Go runtime:
runtime/pkg/katautils/config.go, whose updateFromDropIn applies each key of a drop-in by its name, while the
configuration itself is decoded without looking for what is left over. runtime-rs: the structures with
`deny_unknown_fields` in libs/kata-types/src/config (agent.rs, hypervisor/mod.rs, shared_mount.rs).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.doctor.kataconfig import Flavour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.kataconfig import KataConfiguration

#: Of which version these are the keys. Others may know more, or fewer.
VERSION: Final = (4, 1)


@dataclass(frozen=True, slots=True)
class _Strict:
    """A section in which a key that is not known is refused.

    Attributes:
        of: the runtime.
        section: its parts; `*` stands for any name.
        keys: those that are known.
        since: the first version that refuses others.
        drop_ins_only: the main file may have any.
    """

    of: Flavour
    section: tuple[str, ...]
    keys: frozenset[str]
    since: tuple[int, ...]
    drop_ins_only: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A key that is not known.

    Attributes:
        file: where it is written.
        section: such as `agent.kata`.
        key: its name there.
        meant: a key that is known and looks much the same; empty: there is none.
        certain: the version is the one whose keys these are.
    """

    file: str
    section: str
    key: str
    meant: str
    certain: bool


def refused(one: KataConfiguration) -> list[Refused]:
    """Find the keys of a configuration, drop-ins included, that its runtime does not know and refuses."""
    found = (
        Refused(file, ".".join(section), key, _like(key, strict.keys), (one.release or ())[:2] == VERSION)
        for strict in _STRICT
        if strict.of is one.flavour and (one.release is None or one.release >= strict.since)
        for file, section, key in _keys(one, strict)
        if key not in strict.keys and not (strict.drop_ins_only and file == one.path)
    )
    return list(dict.fromkeys(found))


def _keys(one: KataConfiguration, strict: _Strict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Give each key of a section with the file and the section's own name."""
    depth = len(strict.section)
    for path, written in one.settings.items():
        parts = tuple(path.split("."))
        if not all(name in {"*", part} for name, part in zip(strict.section, parts, strict=False)):
            continue
        if len(parts) > depth:
            yield written.file, parts[:depth], parts[depth]
        elif len(parts) == depth and isinstance(written.value, list):  # an array of tables
            tables = [table for table in written.value if isinstance(table, dict)]
            yield from ((written.file, parts, key) for table in tables for key in table)


def _like(key: str, known: frozenset[str]) -> str:
    return next(iter(difflib.get_close_matches(key, sorted(known), 1, 0.8)), "")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GO_AGENT: Final = _words("""
    cdh_api_timeout debug_console_enabled dial_timeout enable_debug enable_tracing kernel_modules
    launch_process_timeout visible_cdi_devices
""")
_GO_HYPERVISOR: Final = _words("""
    block_device_aio block_device_cache_direct block_device_cache_noflush block_device_cache_set
    block_device_driver block_device_logical_sector_size block_device_physical_sector_size cold_plug_vfio
    confidential_guest cpu_features default_bridges default_maxmemory default_maxvcpus default_memory
    default_vcpus disable_block_device_use disable_guest_selinux disable_image_nvdimm
    disable_nesting_checks disable_seccomp disable_selinux disable_vhost_net disk_rate_limiter_bw_max_rate
    disk_rate_limiter_bw_one_time_burst disk_rate_limiter_ops_max_rate
    disk_rate_limiter_ops_one_time_burst enable_annotations enable_debug enable_guest_swap
    enable_hugepages enable_iommu enable_iommu_platform enable_iothreads enable_mem_prealloc enable_numa
    enable_vhost_user_store enable_virtio_mem entropy_source extra_monitor_socket firmware firmware_volume
    guest_extension_images guest_hook_path guest_memory_dump_paging guest_memory_dump_path hot_plug_vfio
    hypervisor_loglevel image indep_iothreads initrd jailer_path kernel kernel_params kernel_verity_params
    machine_accelerators machine_type measurement_algo memory_offset memory_slots msize_9p
    net_rate_limiter_bw_max_rate net_rate_limiter_bw_one_time_burst net_rate_limiter_ops_max_rate
    net_rate_limiter_ops_one_time_burst numa_mapping path pcie_root_port pcie_switch_port pflashes
    reclaim_guest_freed_memory remote_hypervisor_socket remote_hypervisor_timeout rootfs_type rootless
    rx_rate_limiter_max_rate seccompsandbox sev_snp_guest shared_fs snp_guest_policy snp_id_auth
    snp_id_block tdx_quote_generation_service_socket_port tx_rate_limiter_max_rate use_legacy_serial
    valid_entropy_sources valid_hypervisor_paths valid_jailer_paths valid_vhost_user_store_paths
    valid_virtio_fs_daemon_paths vhost_user_reconnect_timeout_sec vhost_user_store_path virtio_fs_cache
    virtio_fs_cache_size virtio_fs_daemon virtio_fs_extra_args virtio_fs_queue_size
""")
_RUST_AGENT: Final = _words("""
    cdh_api_timeout_ms container_pipe_size create_container_timeout debug_console_enabled dial_timeout_ms
    enable_debug enable_tracing health_check_request_timeout_ms kernel_modules launch_process_timeout
    log_level log_port mem_agent passfd_listener_port policy reconnect_timeout_ms server_port
    visible_cdi_devices
""")
_RUST_MEM_AGENT: Final = _words("""
    compact_disable compact_force_times compact_order compact_period_psi_percent_limit compact_period_secs
    compact_psi_percent_limit compact_sec_max compact_threshold enable mem_agent_enable memcg_disable
    memcg_eviction_psi_percent_limit memcg_eviction_run_aging_count_min memcg_period_psi_percent_limit
    memcg_period_secs memcg_swap memcg_swappiness_max
""")
_STRICT: Final = (
    _Strict(Flavour.GO, ("agent", "*"), _GO_AGENT, (2, 5), drop_ins_only=True),
    _Strict(Flavour.GO, ("hypervisor", "*"), _GO_HYPERVISOR, (2, 5), drop_ins_only=True),
    _Strict(Flavour.RUST, ("agent", "*"), _RUST_AGENT, (3, 29)),
    _Strict(Flavour.RUST, ("agent", "*", "mem_agent"), _RUST_MEM_AGENT, (3, 29)),
    _Strict(Flavour.RUST, ("hypervisor", "*", "factory"), _words("enable_template template_path"), (3, 29)),
    _Strict(Flavour.RUST, ("hypervisor", "*", "rootless_user"), _words("gid groups uid user_name"), (3, 29)),
    _Strict(
        Flavour.RUST, ("runtime", "shared_mounts"), _words("dst_ctr dst_path name src_ctr src_path"), (3, 29)
    ),
)
