"""What is in flight between threads is bounded by its size."""

import threading

import pytest

from eclipse.purification.room import Room


@pytest.mark.parametrize("sizes", [[1] * 20, [5, 1, 5, 3, 2, 2], [100, 1, 100, 100], [4, 4, 0, 4]])
def test_no_more_is_in_flight_than_there_is_room_for(sizes: list[int]) -> None:
    room, inside, most = Room(4), list[int](), list[list[int]]()
    entered = threading.Semaphore(0)

    def run() -> None:
        for size in sizes:
            room.enter(size)
            inside.append(size)
            most.append(list(inside))
            entered.release()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for size in sizes:
        assert entered.acquire(timeout=10)
        inside.remove(size)
        room.leave(size)
    thread.join(10)
    assert not thread.is_alive()
    assert all(sum(now) <= 4 or len([size for size in now if size]) == 1 for now in most)


def test_at_the_end_nobody_waits() -> None:
    with Room(4) as room:
        room.enter(4)
        thread = threading.Thread(target=room.enter, args=(4,), daemon=True)
        thread.start()
    thread.join(10)
    assert not thread.is_alive()
