"""``pretrain --resolution-schedule``: sizes in the log, maps on the right grid, resuming to the bit."""

from dataclasses import replace

import pytest

from mae.training.checkpoints import load_model
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.sources.open_source import open_source
from pipelines.views.joined_maps import JoinedMaps
from tests.pipelines.pretraining import (
    SMALL,
    SOURCE,
    STEPS,
    assert_same_weights,
    invoke,
    losses,
    run,
    stopping,
)
from tests.tiny_mae import write_maps


@pytest.fixture
def base(base, tmp_path):
    maps = write_maps(tmp_path / "maps", open_source(SOURCE))
    return replace(base, saliency=maps, image_size=(32,), resolution_schedule="0:16,0.3:16x24,0.6:32")


SIZES = [[16, 16]] * 6 + [[16, 24]] * 6 + [[32, 32]] * 6


def test_sizes_are_logged_and_maps_lie_on_their_grids(base, pictures, monkeypatch):
    seen = []
    on_views, update = JoinedMaps.on_views, Training.update

    def watch(self, batch, grid, *place):
        maps = on_views(self, batch, grid, *place)
        seen.append((tuple(batch.images.shape[2:]), grid, maps.shape[1]))
        return maps

    def updates(self, batches):
        assert all(batch.saliency.shape[1] == self.grid[0] * self.grid[1] for batch in batches)
        return update(self, batches)

    monkeypatch.setattr(JoinedMaps, "on_views", watch)
    monkeypatch.setattr(Training, "update", updates)
    lines = run(base).metrics()
    assert [line["image_size"] for line in lines] == SIZES
    assert all(0 < line["loss"] < 10 for line in lines)
    assert seen[:STEPS] == [(tuple(size), (size[0] // 8, size[1] // 8), size[0] * size[1] // 64) for size in SIZES]
    assert load_model(base.out).image_size == (32, 32)
    assert (base.out / "plots" / "reconstructions.png").exists()


def test_without_a_schedule_the_log_has_no_size(base):
    assert "image_size" not in run(replace(base, resolution_schedule=None)).metrics()[0]


@pytest.mark.parametrize("stop", [3, 6, 8, 14])
@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_a_stopped_run_goes_on_to_the_bit(base, tmp_path, stop, augment_on):
    options = replace(base, augment_on=augment_on)
    whole = run(options)
    stopped = replace(options, out=tmp_path / "stopped")
    with stopping(stop), pytest.raises(KeyboardInterrupt):
        run(stopped)
    resumed = run(replace(stopped, resume=True))
    assert losses(resumed) == losses(whole)
    assert [line["image_size"] for line in resumed.metrics()] == SIZES
    assert_same_weights(options.out, stopped.out)


def test_another_schedule_is_another_run(base):
    with stopping(8), pytest.raises(KeyboardInterrupt):
        run(base)
    with pytest.raises(UserError, match="resolution_schedule '0:16,0.3:16x24,0.6:32' → None"):
        run(replace(base, resume=True, resolution_schedule=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution_schedule": "0:16,0.5:24"}, "ends with 24×24, which must be --image-size 32×32"),
        ({"resolution_schedule": "0:20,0.5:32"}, "20×20 must be a multiple of --patch-size 8"),
        ({"resolution_schedule": "0:8,0.5:32"}, "would hide 1 of 1 patches"),
        ({"resolution_schedule": "small first"}, "is not SHARE:SIDE"),
        ({"epochs": 2}, "of --epochs 2 none is left for"),
    ],
)
def test_mistakes_are_known_before_the_run_begins(base, changes, message):
    with pytest.raises(UserError, match=message):
        run(replace(base, **changes))
    assert not base.out.exists()


def test_as_a_user_types_it(base):
    given = [*SMALL, "--resolution-schedule", "0:8x16,0.5:16", "--mask-ratio", 0.5, "--out", base.out]
    result = invoke("pretrain", SOURCE, *given, "--epochs", 2)
    assert result.exit_code == 0, result.output
    result = invoke("pretrain", SOURCE, *given)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "of --epochs 1 none is left" in result.stderr
