"""Bugs with volumes: their sizes, their names, their room, and the pool that has them."""

import time

from katacsi.backends.api import Capacity
from katacsi.backends.tools import listing
from katacsi.errors import NotFound, PoolUnavailable
from katacsi.host import files
from support.kit_mutants.registry import mutant
from support.kit_reference import Disks


@mutant("the limit of a size is ignored", "test_the_limit_is_kept")
class NoLimit(Disks):
    def fits(self, request, size):
        return size >= request.size.required


@mutant("a repeated create accepts another size", "test_a_taken_name_with_another_size_is_refused")
class AnySize(Disks):
    def check_existing(self, existing, request):
        pass


@mutant("the size is told as asked for, not as it is", "test_odd_sizes_are_rounded_up[1]")
class SizeAsAsked(Disks):
    def choose(self, name, request):
        return {**super().choose(name, request), "size": request.size.required}


@mutant("delete of an absent volume is an error", "test_deleting_twice_succeeds")
class DeleteOnce(Disks):
    def do_delete(self, volume_id):
        if self.find_record(self.own(volume_id)) is None:
            raise NotFound(f"volume {volume_id}: there is none")
        super().do_delete(volume_id)


@mutant("disks are not wiped", "test_reused_space_is_blank", "test_a_new_device_is_blank")
class NoWipe(Disks):
    def wipe(self, disk):
        pass


@mutant("only the ends of a disk are wiped", "test_reused_space_is_blank", "test_a_new_device_is_blank")
class EdgesWiped(Disks):
    def wipe(self, disk):
        self.zero(disk, 0, 1 << 20)
        self.zero(disk, self.size(disk) - (1 << 20), 1 << 20)


@mutant("the last 4 KiB are not wiped", "test_reused_space_is_blank")
class AllButTheEnd(Disks):
    def wipe(self, disk):
        self.zero(disk, 0, self.size(disk) - 4096)


@mutant("capacity counts disks that are taken", "test_a_volume_takes_its_room")
class TakenCounted(Disks):
    def do_capacity(self, parameters):
        self.check_parameters(parameters)
        sizes = [self.size(link) for link in self.disks.iterdir()]
        return Capacity(sum(sizes), max(sizes))


@mutant("capacity is half of what there is", "test_all_room_that_is_offered_can_be_used")
class Halved(Disks):
    def do_capacity(self, parameters):
        whole = super().do_capacity(parameters)
        return Capacity(whole.available_bytes // 2, whole.maximum_volume_bytes // 2)


@mutant("the available bytes are those of the largest disk", "test_all_room_that_is_offered_can_be_used")
class LargestOnly(Disks):
    def do_capacity(self, parameters):
        whole = super().do_capacity(parameters)
        return Capacity(whole.maximum_volume_bytes, whole.maximum_volume_bytes)


@mutant("the maximum of a volume is the sum of all disks", "test_the_largest_volume_that_is_offered_is_made")
class MaximumIsSum(Disks):
    def do_capacity(self, parameters):
        whole = super().do_capacity(parameters)
        return Capacity(whole.available_bytes, whole.available_bytes)


@mutant("unknown parameters are taken", "test_unknown_parameters_are_refused_by_name")
class AnyParameter(Disks):
    def check_parameters(self, parameters):
        pass


@mutant(
    "two creates at once take one disk",
    "test_volumes_have_devices_of_their_own",
)
class OneDiskForTwo(Disks):
    def write(self, name, record):
        if record["state"] == "new":
            self.choosing.release()
            time.sleep(0.1)
            self.choosing.acquire()
        super().write(name, record)


@mutant("an id of another pool is called absent", "test_another_pools_id_is_no_absent_volume")
class ForeignIsAbsent(Disks):
    def do_get(self, volume_id):
        return super().do_get(volume_id) if volume_id.pool_uid == self.pool_uid else None


@mutant("an id of another pool is taken for an own one", "test_another_pools_id_is_no_absent_volume")
class ForeignIsOwn(Disks):
    def own(self, volume_id):
        return volume_id.name


@mutant("a view takes the lock of the pool", "test_a_view_sees_and_changes_nothing")
class ViewLocks(Disks):
    def do_start(self):
        if self.context.read_only:
            self.take_lock()
        super().do_start()


@mutant("a view changes what it sees", "test_a_view_sees_and_changes_nothing")
class ViewChanges(Disks):
    def changing(self):
        pass


@mutant("the pool has a new identity after each start", "test_the_pool_keeps_its_identity")
class NewIdentity(Disks):
    def do_start(self):
        super().do_start()
        if not self.context.read_only:
            self.pool_uid = self.new_uid()
            files.write_atomically(self.state / "pool", self.pool_uid.encode())


@mutant("list ignores the limit", "test_pages_are_the_list[1]")
class NoPages(Disks):
    def do_list(self, cursor, limit):
        return super().do_list(cursor, 0)


@mutant("any cursor is taken", "test_a_foreign_cursor_is_refused")
class AnyCursor(Disks):
    def do_list(self, cursor, limit):
        return listing.page([name for name in self.names() if name > cursor], "", limit, self.look)


@mutant(
    "a pool whose folder is gone is called empty",
    "test_nothing_is_absent_while_the_storage_is_away",
)
class EmptyWithoutStorage(Disks):
    def verify(self):
        pass


@mutant("a pool is served by two drivers", "test_a_second_driver_is_refused")
class NoLock(Disks):
    def take_lock(self):
        pass


@mutant("a wipe that was interrupted is not resumed", "test_a_killed_delete_is_finished_by_the_next_start")
class WipeNotResumed(Disks):
    def recover(self):
        pass


@mutant(
    "a volume is visible while its disk is being wiped",
    "test_a_killed_create_leaves_a_whole_volume_or_none",
)
class VisibleTooEarly(Disks):
    def recover(self):
        pass

    def look(self, name):
        record = self.find_record(name)
        return self.volume(name, record) if record else None

    def ready(self, name):
        return self.read(name)


@mutant("create blocks the event loop", "test_the_event_loop_is_not_blocked")
class LoopBlocked(Disks):
    async def create(self, request):
        time.sleep(0.3)  # noqa: ASYNC251 -- the bug
        return await super().create(request)


@mutant("create computes in the event loop", "test_the_event_loop_is_not_blocked")
class LoopBusy(Disks):
    async def create(self, request):
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass
        return await super().create(request)


@mutant(
    "a start takes an empty place for a new pool and forgets the old one",
    "test_a_start_without_the_storage_disowns_no_volume",
)
class FoundsAnew(Disks):
    def new_uid(self):
        return "0123abcd"

    def do_get(self, volume_id):
        try:
            return super().do_get(volume_id)
        except PoolUnavailable:
            return None
