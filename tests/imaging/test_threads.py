import os
import threading
import time

import pytest

from busseg.imaging import threads
from busseg.imaging.threads import count_cores, map_in_turn


def most_held(pixels, monkeypatch, limit=100):
    """The most pixels that are held at once where each thing holds that many from its start until it is taken."""
    monkeypatch.setattr(threads, "PIXELS_AHEAD", limit)
    held, most, lock = 0, 0, threading.Lock()

    def work(thing):
        nonlocal held, most
        with lock:
            held += thing
            most = max(most, held)
        time.sleep(0.002)
        return thing

    for taken, expected in zip(map_in_turn(work, pixels, lambda thing: thing, threads=8), pixels, strict=True):
        assert taken == expected
        with lock:
            held -= taken
    return most


def test_what_is_held_is_bounded_not_by_the_threads_but_by_the_pixels(monkeypatch):
    assert 40 < most_held([40] * 30, monkeypatch) <= 140  # two of 40, and one that was taken this moment


def test_what_is_larger_than_the_bound_goes_alone(monkeypatch):
    assert most_held([150] * 10, monkeypatch) <= 300  # it, and the one that was taken this moment


def test_small_things_are_worked_on_together(monkeypatch):
    assert most_held([1] * 50, monkeypatch) > 4


def test_error_comes_in_its_turn():
    def fail(thing):
        if thing == 2:
            raise ValueError("two")
        return thing

    results = map_in_turn(fail, range(4))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match=r"^two$"):
        next(results)


def test_what_has_not_begun_is_dropped_and_the_threads_end_when_the_iterator_is_closed():
    begun = []

    def work(thing):
        begun.append(threading.current_thread())
        time.sleep(0.1 if thing else 0)  # two seconds for all
        return thing

    results = map_in_turn(work, range(20), threads=1, ahead=20)
    assert next(results) == 0
    results.close()
    assert len(begun) < 20
    assert not begun[0].is_alive()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_only_the_cores_count_that_the_process_may_use():
    own = os.sched_getaffinity(0)
    assert count_cores() == len(own)
    os.sched_setaffinity(0, {min(own)})
    try:
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, own)
