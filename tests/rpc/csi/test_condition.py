"""The volume condition of CSI up to 1.12, which the generated messages no longer have."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from katacsi.csi import condition
from katacsi.model import Condition


@pytest.fixture(scope="module")
def older_status():
    """The message around a condition as csi.proto 1.12 has it, by official protobuf."""
    file = descriptor_pb2.FileDescriptorProto(name="older.proto", package="older", syntax="proto3")
    inner = file.message_type.add(name="VolumeCondition")
    inner.field.add(name="abnormal", number=1, type=8, label=1)
    inner.field.add(name="message", number=2, type=9, label=1)
    outer = file.message_type.add(name="VolumeStatus")
    outer.field.add(name="volume_condition", number=2, type=11, label=1, type_name=".older.VolumeCondition")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("older.VolumeStatus"))


@pytest.mark.parametrize("render", [condition.listed, condition.got, condition.stats])
@pytest.mark.parametrize(
    "found",
    [
        Condition(),
        Condition(abnormal=True, message="the device is gone"),
        Condition(abnormal=True, message=""),
        Condition(abnormal=True, message="größer als gedacht " * 20),
    ],
    ids=["healthy", "abnormal", "no-words", "long"],
)
def test_older_callers_read_the_condition(older_status, render, found):
    """What we send is, to a caller of CSI 1.12, a volume condition with the same words."""
    read = older_status.FromString(bytes(render(found)))
    assert read.HasField("volume_condition")
    assert (read.volume_condition.abnormal, read.volume_condition.message) == (found.abnormal, found.message)
