"""The folder in which Kata looks for a target's record."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.directvolume import names
from katacsi.errors import InvalidRequest

PLAIN = "/var/lib/kubelet/pods/1202b4c1-e87f-4f0d-8624-52500f3ab94b/volumes/kubernetes.io~csi/"
VOLUME = "pvc-2ad7b367-9fed-480d-a747-1ca5ce3809d4/mount"

# What Kata's Go and Rust code make of these paths.
GOLDEN = {
    "/a/b/c": "L2EvYi9j",
    "abcdddd": "YWJjZGRkZA==",
    "../../etc/passwd": "Li4vLi4vZXRjL3Bhc3N3ZA==",
    "/x?y>z~~~ÿ": "L3g_eT56fn5-w78=",
    "/kubelet/kata-test-vol-001/volume001": "L2t1YmVsZXQva2F0YS10ZXN0LXZvbC0wMDEvdm9sdW1lMDAx",
    PLAIN + VOLUME: "L3Zhci9saWIva3ViZWxldC9wb2RzLzEyMDJiNGMxLWU4N2YtNGYwZC04NjI0LTUyNTAwZjNhYjk0Yi92b2x1"
    "bWVzL2t1YmVybmV0ZXMuaW9-Y3NpL3B2Yy0yYWQ3YjM2Ny05ZmVkLTQ4MGQtYTc0Ny0xY2E1Y2UzODA5ZDQvbW91bnQ=",
}


@pytest.mark.gate("record-json-for-both-runtimes")
@pytest.mark.parametrize(("path", "name"), GOLDEN.items())
def test_names_are_those_of_kata(path, name):
    """A path's entry has the name under which both runtimes look for it."""
    assert names.entry_name(path) == name
    assert names.decoded(name) == path


@given(st.text(min_size=1, max_size=60).filter(lambda path: len(path.encode("utf-8", "ignore")) <= 189))
def test_every_path_has_one_name(path):
    """Names lead back to their paths, and fit into a folder name."""
    try:
        name = names.entry_name(path)
    except InvalidRequest:
        assert not path.isprintable()  # a lone surrogate is not UTF-8
        return
    assert names.decoded(name) == path
    assert "/" not in name
    assert len(name) <= 255


def test_the_length_limit_is_that_of_a_folder_name():
    """189 bytes are taken, 190 refused with the remedy: Kata would silently share the host's folder."""
    longest = "/" + "é" * 94
    assert len(names.target_entry_name(longest)) == 252
    with pytest.raises(InvalidRequest, match=r"target_path: .* 190 bytes .* shorter Persistent"):
        names.target_entry_name(longest + "x")
    assert len(base64.urlsafe_b64encode((longest + "x").encode())) > 255


@pytest.mark.parametrize(
    ("target", "fact"),
    [
        ("", "is empty"),
        ("var/lib/kubelet", "is relative"),
        ("/var/lib/../etc", r"contains '\.\.'"),
        ("/..", r"contains '\.\.'"),
        ("/a\0b", "NUL"),
        ("/", "root directory"),
        ("//", "root directory"),
        ("/a\udc80", "not UTF-8"),
    ],
)
def test_targets_that_nobody_may_publish_at(target, fact):
    """Each is refused by name; the empty one would stand for the root of all records."""
    with pytest.raises(InvalidRequest, match=fact) as refusal:
        names.target_entry_name(target)
    assert refusal.value.field == "target_path"


def test_dots_within_a_name_are_no_climbing():
    """Only a whole component '..' climbs."""
    assert names.decoded(names.target_entry_name("/a..b/..c/d..")) == "/a..b/..c/d.."


@pytest.mark.parametrize(
    "name",
    ["", ".tmp-1", "L2EvYi9", "L2EvYi9j\n", "L3g/eT4=", "L3g+", "YQ==YQ==", "YR==", "gICA", "Ünicode"],
)
def test_foreign_names_decode_to_nothing(name):
    """What is not the one encoding of a UTF-8 path is nobody's target."""
    assert names.decoded(name) is None


def test_temporary_names_are_entries_of_nobody(target):
    """A temporary folder has a valid name, the same each time, that no target shares."""
    name = names.temporary_entry_name(target)
    assert name == names.temporary_entry_name(target) != names.temporary_entry_name(target + "2")
    assert names.is_temporary(names.decoded(name))
    assert not names.is_temporary(target)
