"""Work of threads on many images, in bounded memory."""

import ctypes
from collections import deque
from functools import cache

PIXELS_AHEAD = 16_000_000  # sixteen images of a million pixels each, or one that is larger


def map_in_turn(pool, function, things, count_pixels, ahead=16):
    """`map(function, things)` by the threads of a pool, in order, only a little ahead of who takes the results.

    What is at work, or done and not yet taken, is at most `ahead` things with `PIXELS_AHEAD` pixels in all; or a
    single one that has more. So a folder takes as much memory as its largest image, however many threads there are.

    Args:
        pool: A `ThreadPoolExecutor`.
        function: Function of a thing.
        things: Iterable.
        count_pixels: Function that gives the number of pixels that a thing holds in memory.
        ahead: Number of things.

    Yields:
        What the function gives for each thing, or raises what it raises.
    """
    _give_back_large_blocks()
    waiting, held = deque(), 0
    for thing in things:
        pixels = count_pixels(thing)
        while waiting and (len(waiting) >= ahead or held + pixels > PIXELS_AHEAD):
            first, freed = waiting.popleft()
            held -= freed
            yield first.result()
        waiting.append((pool.submit(function, thing), pixels))
        held += pixels
        del thing  # or else it stays in memory while the next one is waited for
        while waiting and waiting[0][0].done():
            first, freed = waiting.popleft()
            held -= freed
            yield first.result()
    while waiting:
        yield waiting.popleft()[0].result()


@cache
def _give_back_large_blocks():
    """Let glibc give blocks of 8 MB and more back to the system once they are free.

    By itself it learns to keep blocks of up to 32 MB, in a heap for each thread: the memory of several large images.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mmap_threshold, trim_threshold = -3, -1
    mallopt(mmap_threshold, 2**23)
    mallopt(trim_threshold, 2**24)
