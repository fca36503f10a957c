"""Work behind: in order, bounded, and an error is told before more is done than has to be."""

import threading
import time

import pytest

from pipelines.prefetch import one_behind


def test_it_is_done_in_order_by_another_thread_and_all_of_it():
    done, threads = [], set()
    with one_behind(depth=2) as behind:
        for number in range(20):
            behind(lambda number=number: (done.append(number), threads.add(threading.get_ident())))
    assert done == list(range(20))
    assert threads.isdisjoint({threading.get_ident()})
    assert len(threads) == 1


def test_no_more_waits_than_it_is_told():
    gate, begun = threading.Event(), []
    threading.Timer(0.1, gate.set).start()
    with one_behind(depth=3) as behind:
        started = time.monotonic()
        for number in range(4):
            behind(lambda number=number: (begun.append(number), gate.wait()))
        assert time.monotonic() - started > 0.05  # the fourth waits for the first
    assert begun == [0, 1, 2, 3]


def hand_over(works, depth, then=lambda: None):
    with one_behind(depth=depth) as behind:
        for work in works:
            behind(work)
        then()


@pytest.mark.parametrize("more", [0, 3])
def test_an_error_is_raised_and_not_much_is_done_after_it(more):
    done = []

    def fails():
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        hand_over([fails, *[lambda: done.append(1)] * more], 1)
    assert len(done) <= 2


def test_an_error_of_the_block_leaves_the_rest_undone():
    gate, done = threading.Event(), []

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hand_over([lambda: gate.wait(0.2), *[lambda: done.append(1)] * 5], 9, interrupt)
    assert not done
