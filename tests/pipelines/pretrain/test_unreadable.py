"""Images that can't be read: recorded once, left out, and too many of them stop a run."""

import math
from dataclasses import replace

import pytest

from pipelines.errors import UserError
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import open_source
from tests.pipelines.pretraining import folder_of, losses, run, stopping
from tests.tiny_mae import write_maps

pytestmark = pytest.mark.usefixtures("nano")


def test_an_unreadable_image_is_recorded_once_and_the_run_goes_on(base, tmp_path):
    pictures = folder_of(tmp_path / "pictures", 12, broken=[5])
    options = replace(base, source=str(pictures), max_rejected=0.1, checkpoint_every=1)
    whole = run(options)
    assert whole.rejected() == [{"key": "05.png", "index": 5, "reason": "not an image"}]
    assert len(losses(whole)) == 9
    assert all(map(math.isfinite, losses(whole)))
    stopped = replace(options, out=tmp_path / "stopped", workers=1)
    with stopping(4), pytest.raises(KeyboardInterrupt):
        run(stopped)
    with (stopped.out / "rejected.jsonl").open("a") as file:
        file.write('{"key": "06')
    resumed = run(replace(stopped, resume=True))
    assert resumed.rejected() == whole.rejected()
    assert (stopped.out / "rejected.jsonl").read_text().count("\n") == 1
    assert losses(resumed) == losses(whole)


def test_a_batch_too_small_to_shuffle_maps_in_is_left_out(base, tmp_path):
    """Of two batches of two images, the one with a broken image has no other image's map to take."""
    pictures = folder_of(tmp_path / "pictures", 4, broken=[1])
    maps = write_maps(tmp_path / "maps", open_source(str(pictures)))
    options = replace(base, source=str(pictures), saliency=maps, masking="shuffled", max_rejected=0.3)
    folder = run(replace(options, batch_size=2, accumulate=2))
    assert len(losses(folder)) == 3
    assert all(map(math.isfinite, losses(folder)))


def test_too_many_unreadable_images_stop_the_run(base, tmp_path):
    pictures = folder_of(tmp_path / "pictures", 12, broken=[3, 4, 5])
    options = replace(base, source=str(pictures), max_rejected=0.2)
    expected = r"3 of 12 images can't be read, more than --max-rejected 0\.2; .*\.png \(not an image\).*rejected\.jsonl"
    with pytest.raises(UserError, match=expected):
        run(options)
    with pytest.raises(UserError, match="3 of 12"):
        run(replace(options, resume=True, max_rejected=0.0))
    assert sorted(line["key"] for line in RunFolder(base.out).rejected()) == ["03.png", "04.png", "05.png"]
    assert len(losses(run(replace(options, resume=True, max_rejected=0.25)))) == 9


def test_a_step_without_a_readable_image(base, tmp_path):
    pictures = folder_of(tmp_path / "pictures", 8, broken=range(8))
    with pytest.raises(UserError, match="too few images of a step"):
        run(replace(base, source=str(pictures), max_rejected=1))
