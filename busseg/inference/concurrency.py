"""How the threads of a program share the function of a loaded model."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.threads import count_cores

Run = Callable[[NDArray], dict[str, NDArray]]


def one_at_a_time(run: Run) -> Run:
    """The same function for a runtime that computes one batch at a time: another thread waits."""
    lock = threading.Lock()

    def run_alone(batch):
        with lock:
            return run(batch)

    return run_alone


def one_thread_an_image(run: Run, make_single: Callable[[int], Run], threads: int | None) -> Run:
    """A function that computes several images at once, each with one thread, and a single image with all of them.

    That is faster than a whole batch with all threads, which wait for each other after every layer. And an image's
    outputs do not depend on the others of its batch.

    Args:
        run: Function that computes an image with all threads.
        make_single: Function of the number of threads, which makes the function that each of them calls with an image.
            It is called once, the first time that several images come.
        threads: Number of threads; by default one for each core.
    """
    count = threads or count_cores()
    make_single, lock = cache(make_single), threading.Lock()
    pool = ThreadPoolExecutor(count)

    def run_batch(batch):
        if len(batch) == 1:
            return run(batch)
        with lock:
            run_single = make_single(count)
        answers = list(pool.map(run_single, np.split(batch, len(batch))))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    return run_batch
