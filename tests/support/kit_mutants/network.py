"""Bugs of storage in the network: two nodes on one filesystem, and answers that nobody asked for."""

import contextlib
import time

from katacsi.errors import KatacsiError, Precondition
from support.kit_appliance import Appliance
from support.kit_mutants.registry import mutant


@mutant(
    "publish returns constants, and unpublish does nothing",
    "test_a_volume_is_published_to_one_node",
    "test_a_fenced_node_does_not_attach",
    "test_what_a_fenced_node_writes_reaches_no_volume",
    "test_an_unknown_node_is_refused",
    "test_publishing_without_the_storage_is_an_error",
)
class Constants(Appliance):
    def do_publish(self, volume_id, node_id, *, read_only):
        return {"portal": "192.0.2.1:3260"}

    def do_unpublish(self, volume_id, node_id):
        pass

    def check_access(self, volume_id, record, context):
        pass


@mutant("a publish takes the volume from the node that has it", "test_a_volume_is_published_to_one_node")
class TakesAway(Appliance):
    def do_publish(self, volume_id, node_id, *, read_only):
        access = self.ready(volume_id.name)["access"]
        if access and access["node"] != node_id:
            self.do_unpublish(volume_id, "")
        return super().do_publish(volume_id, node_id, read_only=read_only)


@mutant("a repeated publish changes the access", "test_a_repeated_publish_with_other_access_is_refused")
class OtherAccess(Appliance):
    def do_publish(self, volume_id, node_id, *, read_only):
        access = self.ready(volume_id.name)["access"]
        held = access["read_only"] if access else read_only
        return super().do_publish(volume_id, node_id, read_only=held)


@mutant("a repeated publish gives another context", "test_a_repeated_publish_gives_the_same")
class OtherContext(Appliance):
    def do_publish(self, volume_id, node_id, *, read_only):
        context = super().do_publish(volume_id, node_id, read_only=read_only)
        return {**context, "at": str(time.monotonic_ns())}


@mutant("attach does not ask who has the volume", "test_a_fenced_node_does_not_attach")
class StaleAttach(Appliance):
    def check_access(self, volume_id, record, context):
        pass


@mutant("unpublish takes a note away, and not the access", "test_what_a_fenced_node_writes_reaches_no_volume")
class Unfenced(Appliance):
    def fence(self, name):
        pass


@mutant("unpublish of every node does nothing", "test_unpublish_frees_the_volume[every-node]")
class NotEveryNode(Appliance):
    def do_unpublish(self, volume_id, node_id):
        if node_id:
            super().do_unpublish(volume_id, node_id)


@mutant("unpublish of one node fences another", "test_unpublish_of_another_node_changes_nothing")
class LateUnpublish(Appliance):
    def do_unpublish(self, volume_id, node_id):
        super().do_unpublish(volume_id, "")


@mutant("unpublish of what is not published is an error", "test_unpublish_is_repeated")
class UnpublishOnce(Appliance):
    def do_unpublish(self, volume_id, node_id):
        record = self.find_record(self.own(volume_id))
        if record and not record["access"]:
            raise Precondition(f"volume {volume_id}: is not published")
        super().do_unpublish(volume_id, node_id)


@mutant("unpublish answers OK while the storage is away", "test_publishing_without_the_storage_is_an_error")
class UnpublishUnasked(Appliance):
    def do_unpublish(self, volume_id, node_id):
        with contextlib.suppress(KatacsiError):
            super().do_unpublish(volume_id, node_id)


@mutant("delete takes a volume that is published", "test_a_published_volume_is_not_deleted")
class DeletePublished(Appliance):
    def do_delete(self, volume_id):
        super().do_unpublish(volume_id, "")
        super().do_delete(volume_id)


@mutant("a publish that was killed is never repeated", "test_a_killed_publish_or_unpublish_is_repeated")
class HalfPublished(Appliance):
    def do_publish(self, volume_id, node_id, *, read_only):
        (self.state / f"{volume_id.name}.busy").touch(exist_ok=False)
        context = super().do_publish(volume_id, node_id, read_only=read_only)
        (self.state / f"{volume_id.name}.busy").unlink()
        return context


@mutant("facts are compared without a transaction", "test_facts_are_compared_across_processes")
class NoTransaction(Appliance):
    @contextlib.contextmanager
    def transaction(self, name):
        yield

    def write(self, name, record):
        time.sleep(0.05)
        super().write(name, record)
