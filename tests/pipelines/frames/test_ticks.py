"""Ticks: the latest frame at each, whatever the times; what is missing is repeated and counted."""

from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.frames.live import Faults
from pipelines.frames.ticks import Arrival, Ticks


def shown(arrivals, fps):
    """What is shown: an arrival is (time, number), the number stands for its picture, None for none."""
    faults = Faults()
    ticks = Ticks(Fraction(fps), faults)
    return [image for time, number in arrivals for image in ticks.add(Arrival(time, number))], faults


@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    fps=st.sampled_from([1, 7, 24, 25, 60]),
    start=st.integers(-99, 10**6),
)
def test_every_tick_shows_the_latest_frame(gaps, fps, start):
    times = [Fraction(start + sum(gaps[: i + 1]), 1000) for i in range(len(gaps))]
    places = [(time - times[0]) * fps for time in times]
    late = Fraction(1, 10)
    assume(all(abs(place % 1 - edge) > 1e-4 for place in places for edge in (late, 1 - late)))
    expected = []
    for tick in range(int(places[-1] + late) + 1):
        first = next(i for i, place in enumerate(places) if place >= tick - late)
        expected.append(first if places[first] <= tick + late else first - 1)
    found, faults = shown([(float(time), number) for number, time in enumerate(times)], fps)
    assert found == expected
    assert faults.jumps == 0
    assert faults.repeated == len(found) - len(set(found))


def test_a_stream_at_its_own_rate_is_taken_as_it_is_and_without_delay():
    for fps in (24, 25, Fraction(30000, 1001), 60, 240):
        faults = Faults()
        ticks = Ticks(Fraction(fps), faults)
        for number in range(2000):
            time = round(float(number / Fraction(fps)), 3)  # as Matroska rounds
            assert list(ticks.add(Arrival(time, number))) == [number]
        assert not faults.shown()


def test_frames_without_times_are_counted():
    found, faults = shown([(None, 0), (None, None), (None, 2), (None, None)], 25)
    assert found == [0, 0, 2, 2]
    assert faults.repeated == 2


def test_what_is_missing_at_the_start_is_the_first_frame():
    assert shown([(None, None), (None, None), (None, 2), (None, 3)], 25)[0] == [2, 2, 2, 3]
    assert shown([(5.0, None), (5.5, None), (6.0, 2), (6.5, 3)], 2)[0] == [2, 2, 2, 3]


def test_what_is_missing_at_the_end_is_the_last_frame():
    assert shown([(0.0, 0), (0.5, 1), (1.5, None)], 2)[0] == [0, 1, 1, 1]


def test_a_clock_that_jumps_does_not_stretch_the_video():
    found, faults = shown([(0.0, 0), (1.0, 1), (5000.0, 2), (5001.0, 3), (7.0, 4), (8.0, 5)], 1)
    assert found == [0, 1, 2, 3, 4, 5]
    assert faults.jumps == 2


def test_a_still_minute_is_a_minute():
    assert shown([(0.0, 0), (59.0, 1)], 1)[0] == [0] * 59 + [1]


def test_a_faster_stream_is_thinned():
    found, faults = shown([(number / 50, number) for number in range(50)], 10)
    assert found == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
    assert faults.skipped > 0
    assert faults.repeated == 0
