"""The committed table of secret fields is what csi.proto marks as secret."""

import importlib.util

import pytest
from google.protobuf import descriptor_pb2

import katacsi._gen.csi.v1 as csi
from katacsi._gen.secrets import SECRET_FIELDS

pytestmark = pytest.mark.unit

CSI_SECRET = 1059


@pytest.fixture
def generate(root):
    """The module tools/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", root / "tools" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_is_what_the_descriptor_marks(our_set, generate):
    """Computed again from the proto, the table is the committed one."""
    computed = generate.secret_fields(our_set.SerializeToString())
    assert {message: frozenset(fields) for message, fields in computed.items()} == SECRET_FIELDS


def test_no_field_called_secrets_is_left_out(our_set):
    """Whoever leaves out the option in the proto would leak; a second look goes by the name."""
    named = {
        message.name: frozenset({"secrets"})
        for message in our_set.file[-1].message_type
        if any(field.name == "secrets" for field in message.field)
    }
    assert named == SECRET_FIELDS


def test_table_uses_the_names_of_the_generated_classes():
    """A redactor may look up type(message).__name__ and use the fields as attributes."""
    for name, fields in SECRET_FIELDS.items():
        assert fields <= set(vars(getattr(csi, name)()))


def test_table_is_frozen():
    """Nobody can take a secret out of the table at run time."""
    with pytest.raises(TypeError):
        SECRET_FIELDS["CreateVolumeRequest"] = frozenset()


def test_a_nested_secret_is_refused(our_set, generate):
    """Its class would not be called like the message, so the table could not say it."""
    changed = descriptor_pb2.FileDescriptorSet()
    changed.CopyFrom(our_set)
    entry = next(
        message for message in changed.file[-1].message_type if message.name == "ListVolumesResponse"
    )
    marked = bytes([CSI_SECRET << 3 & 0x7F | 0x80, CSI_SECRET << 3 >> 7, 1])
    entry.nested_type[0].field[0].options.MergeFromString(marked)
    with pytest.raises(generate.GenerationError, match=r"ListVolumesResponse\.\w+ has a secret field"):
        generate.secret_fields(changed.SerializeToString())
