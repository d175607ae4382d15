"""StorageClass parameters and the volume context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.errors import InvalidRequest
from katacsi.volumes import parameters
from katacsi.volumes.publish.mode import Asked

INJECTED = {
    "csi.storage.k8s.io/pvc/name": "data",
    "csi.storage.k8s.io/pvc/namespace": "default",
    "csi.storage.k8s.io/pv/name": "pvc-1",
    "storage.kubernetes.io/csiProvisionerIdentity": "1-local.katacsi.io",
}


def test_no_parameters_mean_the_defaults():
    """A StorageClass without parameters is legal: the only pool, and the mode by the pod."""
    assert parameters.parse({}) == parameters.Parameters()
    assert parameters.parse({}).asked is Asked.AUTO


def test_all_keys_are_read():
    """What a StorageClass says is what a volume gets; the backend's keys lose their prefix."""
    chosen = parameters.parse(
        {
            "katacsi.io/pool": "fast",
            "katacsi.io/direct": "true",
            "katacsi.io/fs-group-change-policy": "Always",
            "katacsi.io/mkfs-options": "-i 8192",
            "loopfile.katacsi.io/allocation": "thick",
        }
    )
    assert (chosen.pool, chosen.asked, chosen.fs_group_change_policy) == ("fast", Asked.DIRECT, "Always")
    assert (chosen.mkfs_options, chosen.backend_name) == ("-i 8192", "loopfile")
    assert chosen.backend == {"allocation": "thick"}


def test_what_sidecars_inject_is_never_unknown():
    """The provisioner's extra metadata changes nothing, so a retry from another version is the same call."""
    assert parameters.parse(INJECTED) == parameters.parse({})


@pytest.mark.gate("unknown-parameter-is-refused-at-create")
@pytest.mark.parametrize(
    "key",
    [
        "katacsi.io/Direct",
        "katacsi.io/pools",
        "direct",
        "fsType",
        "katacsi.io/",
        ".katacsi.io/allocation",
        "loopfile.katacsi.io/",
        "loopfile.katacsi.io",
        "csi.storage.k8s.io",
        "",
    ],
)
def test_an_unknown_key_is_named_with_the_legal_ones(key):
    """A misspelt key is refused at once, and the message teaches what is legal."""
    with pytest.raises(InvalidRequest) as refusal:
        parameters.parse({key: "x"})
    assert refusal.value.field == f"parameters[{key}]"
    assert "katacsi.io/direct" in refusal.value.message
    assert "katacsi.io/mkfs-options" in refusal.value.message


@pytest.mark.gate("unknown-parameter-is-refused-at-create")
@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("katacsi.io/direct", "yes", "auto, true, false"),
        ("katacsi.io/direct", "True", "auto, true, false"),
        ("katacsi.io/direct", " true", "auto, true, false"),
        ("katacsi.io/fs-group-change-policy", "onrootmismatch", "OnRootMismatch, Always, None"),
    ],
)
def test_an_illegal_value_is_refused_with_the_legal_ones(key, value, legal):
    """A misspelt value does not silently mean the default."""
    with pytest.raises(InvalidRequest, match=legal) as refusal:
        parameters.parse({key: value})
    assert refusal.value.field == f"parameters[{key}]"
    assert repr(value) in refusal.value.message


def test_two_backends_are_one_too_many():
    """A volume lies in one pool, so keys of two backends contradict each other."""
    with pytest.raises(InvalidRequest, match="one backend"):
        parameters.parse({"loopfile.katacsi.io/allocation": "thick", "lvm.katacsi.io/type": "thin"})


def test_the_context_is_only_what_the_node_needs():
    """Nothing that a user or a sidecar put beside our keys travels to the node."""
    attributes = parameters.parse({"katacsi.io/direct": "true", **INJECTED}).attributes("ext4")
    assert parameters.volume_context({**attributes, **INJECTED, "createFilesystem": "true"}) == {
        "katacsi.io/direct": "true"
    }


def test_a_static_volume_s_context_wins():
    """A PersistentVolume written by hand chooses its own mode; keys that are not ours do not count."""
    merged = parameters.effective(
        {"katacsi.io/direct": "auto", "filesystem": "xfs"},
        {"katacsi.io/direct": "true", "filesystem": "ext4", "anything": "else"},
    )
    assert merged == {"katacsi.io/direct": "true", "filesystem": "xfs"}


@pytest.mark.parametrize(
    ("attributes", "policy"),
    [
        ({}, "OnRootMismatch"),
        ({"katacsi.io/fs-group-change-policy": "Always"}, "Always"),
        ({"katacsi.io/fs-group-change-policy": "None"}, "None"),
    ],
)
def test_the_default_policy_looks_at_the_root_only(attributes, policy):
    """Walking a large volume at every pod start is something one has to ask for."""
    assert parameters.fs_group_change_policy(attributes) == policy


@given(
    pool=st.sampled_from(["", "fast"]),
    asked=st.sampled_from(["", "auto", "true", "false"]),
    policy=st.sampled_from(["", "OnRootMismatch", "Always", "None"]),
    options=st.sampled_from(["", "-m 1"]),
    injected=st.booleans(),
)
def test_what_is_stored_says_the_same_as_the_storage_class(pool, asked, policy, options, injected):
    """What is read back from a volume's attributes is what its StorageClass said, whatever was injected."""
    said = {
        "katacsi.io/pool": pool,
        "katacsi.io/direct": asked,
        "katacsi.io/fs-group-change-policy": policy,
        "katacsi.io/mkfs-options": options,
    }
    raw = {key: value for key, value in said.items() if value} | (INJECTED if injected else {})
    chosen = parameters.parse(raw)
    attributes = chosen.attributes("ext4")
    assert parameters.asked_for(attributes) is chosen.asked
    assert attributes.get("katacsi.io/mkfs-options", "") == options
    assert parameters.parse(parameters.volume_context(attributes)).asked is chosen.asked
    assert all(attributes.values())
