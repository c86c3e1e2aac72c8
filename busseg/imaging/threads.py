"""Process many images with threads in bounded memory."""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

PIXELS_AHEAD = 16_000_000  # sixteen images of a million pixels each, or one that is larger

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def map_in_turn(
    function: Callable[[Thing], Result],
    things: Iterable[Thing],
    count_pixels: Callable[[Thing], int] = lambda thing: 0,
    threads: int | None = None,
    ahead: int | None = None,
) -> Generator[Result, None, None]:
    """`map(function, things)` with threads, in order, only a little ahead of the consumer.

    At most `ahead` things with `PIXELS_AHEAD` pixels in all, or a single larger thing, are in work or done and not yet
    taken. So a folder needs as much memory as its largest image, with any number of threads. The threads end when the
    iterator is exhausted, closed or collected.

    Args:
        function: Function of a thing.
        things: Iterable; the consumer's thread iterates over it.
        count_pixels: Function that returns the number of pixels that a thing holds in memory; by default none.
        threads: Number of threads; None for one for each core.
        ahead: Number of things; None for four for each thread.

    Yields:
        The function's result for each thing, in order. An error of the function is raised in its turn.
    """
    _give_back_large_blocks()
    threads = threads or count_cores()
    ahead = ahead or 4 * threads
    waiting: deque[tuple[Future[Result], int]] = deque()
    held = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for thing in things:
            pixels = count_pixels(thing)
            while waiting and (len(waiting) >= ahead or held + pixels > PIXELS_AHEAD):
                first, freed = waiting.popleft()
                held -= freed
                yield first.result()
            waiting.append((pool.submit(function, thing), pixels))
            held += pixels
            del thing  # else it stays in memory while the loop waits for the next one
            while waiting and waiting[0][0].done():
                first, freed = waiting.popleft()
                held -= freed
                yield first.result()
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)  # so that an error, or Ctrl-C, does not wait for what has not begun


def count_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _give_back_large_blocks():
    """Make glibc return free blocks of 8 MB and more to the system.

    By default it adapts to keep blocks of up to 32 MB, in one heap a thread: the memory of several large images.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mmap_threshold, trim_threshold = -3, -1
    mallopt(mmap_threshold, 2**23)
    mallopt(trim_threshold, 2**24)
