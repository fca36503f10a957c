import io
import sys

import pytest

from pipelines import progress
from pipelines.progress import progress_bar


def _told(monkeypatch, seconds, *, tty=False, **options):
    """What a bar over 3 of 4 images writes to stderr, with a line at least every so many seconds."""
    stream = io.StringIO()
    stream.isatty = lambda: tty
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS", seconds)
    bar = progress_bar(unit="images", name="maps", done=1, **options)
    bar.set_postfix(loss="0.5", refresh=False)
    bar.update(2)
    bar.close()
    return stream.getvalue()


def test_plain_lines_where_there_is_no_terminal(monkeypatch):
    last = _told(monkeypatch, 0.0, total=4).splitlines()[-1]
    assert last.startswith("maps: 3/4 images (75%), ")
    assert " images/s, " in last
    assert last.endswith(" left, loss=0.5")
    assert "\r" not in last


def test_without_a_total_the_time_left_is_unknown(monkeypatch):
    last = _told(monkeypatch, 0.0).splitlines()[-1]
    assert last.startswith("maps: 3 images, ")
    assert " elapsed, loss=0.5" in last


def test_a_short_job_prints_no_line(monkeypatch):
    assert _told(monkeypatch, 30.0, total=4) == ""


def test_a_bar_on_a_terminal(monkeypatch):
    told = _told(monkeypatch, 30.0, tty=True, total=4)
    assert "\r" in told
    assert "3/4" in told


@pytest.mark.parametrize("tty", [False, True])
def test_quiet(monkeypatch, tty):
    assert _told(monkeypatch, 0.0, tty=tty, total=4, quiet=True) == ""


def test_it_iterates_and_knows_the_length(monkeypatch):
    bar = progress_bar([1, 2], unit="images", quiet=True)
    assert list(bar) == [1, 2]
    assert progress_bar([1, 2], unit="images", name="maps").total == 2
