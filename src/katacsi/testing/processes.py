"""Several processes that begin at the same moment, for what has to hold between them."""

from __future__ import annotations

import asyncio
import os
import traceback
import warnings
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from katacsi.testing.pools import PoolUnderTest

    Act = Callable[[PoolUnderTest], Awaitable[object]]

_DONE, _EXPECTED, _FAILED = 0, 3, 1


def forked() -> int:
    """Fork this process, whose threads do not come along; 0 in the child."""
    with warnings.catch_warnings():
        # The child uses none of our threads: it has a loop of its own, and host threads of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


async def in_processes(
    number: int, make_pool: Callable[[], PoolUnderTest], act: Act, *, expected: type[Exception]
) -> int:
    """Have as many processes start a pool each, then act at once; give how many succeeded.

    The others raised what is expected; anything else is an error.
    """
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    children = []
    for _ in range(number):
        if (pid := forked()) == 0:
            os.close(go_write)
            _live(make_pool, act, expected, ready_write, go_read)
        children.append(pid)
    os.close(go_read)
    try:
        for _ in children:
            await asyncio.to_thread(os.read, ready_read, 1)
        os.close(go_write)  # which all of them wait for
        ends = [await asyncio.to_thread(os.waitpid, pid, 0) for pid in children]
    finally:
        for descriptor in (ready_read, ready_write):
            os.close(descriptor)
    codes = [os.waitstatus_to_exitcode(status) for _, status in ends]
    assert set(codes) <= {_DONE, _EXPECTED}, f"a process failed, see its output above: {codes}"
    return codes.count(_DONE)


def _live(
    make_pool: Callable[[], PoolUnderTest], act: Act, expected: type[Exception], ready: int, go: int
) -> NoReturn:
    async def life() -> None:
        pool = make_pool()
        await pool.start()
        os.write(ready, b"r")
        await asyncio.to_thread(os.read, go, 1)
        await act(pool)

    code = _FAILED
    try:
        asyncio.run(life())
        code = _DONE
    except expected:
        code = _EXPECTED
    except BaseException:  # noqa: BLE001 -- a fork must never return into its parent's code
        traceback.print_exc()
    finally:
        os.write(ready, b"f")  # it may have come to no more
        os._exit(code)
