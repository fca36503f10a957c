"""What a run's log says of its speed."""

import time
from dataclasses import replace

import pytest

from mae.training.training import Training
from pipelines.inspect.run import describe_run
from pipelines.pretrain import pretrain as module
from pipelines.pretrain.record.throughput import throughput
from pipelines.views.image_views import Views
from tests.pipelines.pretraining import SMALL, SOURCE, invoke, run, stopping

pytestmark = pytest.mark.usefixtures("nano")


def slow(monkeypatch, kind, name, seconds):
    real = getattr(kind, name)

    def sleeps(*arguments, **options):
        time.sleep(seconds)
        return real(*arguments, **options)

    monkeypatch.setattr(kind, name, sleeps)


@pytest.mark.parametrize(("where", "low", "high"), [("loader", 0.8, 1.0), ("step", 0.0, 0.2)])
def test_starved_is_the_share_of_waiting_for_the_loader(base, monkeypatch, where, low, high):
    if where == "loader":
        slow(monkeypatch, Views, "__getitem__", 0.05)  # four images a batch
    else:
        slow(monkeypatch, Training, "update", 0.08)
    lines = [line for line in run(replace(base, checkpoint_every=1000)).metrics() if "starved" in line]
    assert lines
    assert all(low <= line["starved"] <= high for line in lines), lines
    assert all(0 < line["images_per_second"] < 4 / 0.08 for line in lines), lines


def test_the_start_is_counted_by_itself(base, monkeypatch):
    """The first batch and the first step take their time, and move neither the speed nor the share."""
    load, seconds = module._load, 0.5

    def starts_slowly(*arguments):
        time.sleep(seconds)
        yield from load(*arguments)

    slow(monkeypatch, Training, "update", 0.03)
    monkeypatch.setattr(module, "_load", starts_slowly)
    lines = run(base).metrics()
    assert [line["step"] for line in lines if "startup_seconds" in line] == [1]
    assert lines[0]["startup_seconds"] > seconds
    first = next(line for line in lines if "starved" in line)
    assert first["step"] == 4
    assert first["starved"] < 0.5
    assert first["images_per_second"] > 12 / seconds


def test_a_resumed_run_counts_its_own_start(base):
    with stopping(6), pytest.raises(KeyboardInterrupt):
        run(base)
    lines = run(replace(base, resume=True)).metrics()
    assert [line["step"] for line in lines if "startup_seconds" in line] == [1, 5]


def test_an_interval_of_the_first_step_alone_has_no_speed(base):
    lines = run(replace(base, checkpoint_every=1, epochs=1)).metrics()
    assert ["images_per_second" in line for line in lines] == [False] + [True] * 5


def lines(shares):
    return [{"step": i, "images_per_second": 100.0 + i, "starved": share} for i, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("shares", "hinted"),
    [([0.9, 0.3, 0.25], True), ([0.9, 0.1, 0.1], False), ([0.2, 0.2, 0.2], False), ([0.9, 0.9], False), ([], False)],
)
def test_the_hint_is_for_a_loader_that_was_the_bottleneck(shares, hinted):
    found = throughput(lines(shares)).hint()
    assert (found is not None) == hinted
    if found:
        assert "30%" in found
        assert "mae-cli prepare" in found


def test_inspect_shows_the_medians(base):
    folder = run(base)
    facts, numbers = describe_run(folder)
    speeds = sorted(line["images_per_second"] for line in folder.metrics() if "images_per_second" in line)
    assert numbers["images_per_second"] == speeds[2]
    assert 0 <= numbers["starved"] <= 1
    assert f"{speeds[2]:.0f} images/s, starved" in facts["speed"]
    (folder.folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "epoch": 1}\n')
    assert describe_run(folder)[0]["speed"] == "unknown"
    (folder.folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "epoch": 1, "images_per_second": 7}\n')
    assert describe_run(folder)[0]["speed"] == "7 images/s (medians)"  # of a version without the share


def test_the_command_gives_the_hint(tmp_path, monkeypatch):
    slow(monkeypatch, Views, "__getitem__", 0.05)
    result = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, "--checkpoint-every", 1)
    assert result.exit_code == 0
    assert "the loader was the bottleneck" in result.stdout
