"""What is counted."""

from katacsi.metrics import Metrics


def test_every_name_is_ours_and_explained():
    """Dashboards and alerts rest on these names; each says what it counts, and none is in two registries."""
    metrics = Metrics.create("1.2.3")
    families = [family for family in metrics.registry.collect() if not family.name.startswith("process_")]
    assert {family.name for family in families} == {
        "katacsi_build",
        "katacsi_rpc_duration_seconds",
        "katacsi_rpcs_in_flight",
        "katacsi_host_command_duration_seconds",
        "katacsi_shim_request_duration_seconds",
        "katacsi_kube_request_duration_seconds",
        "katacsi_pending_refusals",
        "katacsi_published_volumes",
        "katacsi_pool_usable",
        "katacsi_formats",
        "katacsi_pool_available_bytes",
        "katacsi_pending_growths",
        "katacsi_orphaned_volumes",
    }
    assert all(family.documentation for family in families)
    (build,) = (family.samples[0].labels for family in families if family.name == "katacsi_build")
    assert build["version"] == "1.2.3"
    Metrics.create()  # a second set, as in tests of other rooms, clashes with nothing
