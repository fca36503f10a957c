"""Maps of clips, one of each clip's middle frame, and a training on clips that they mask."""

import numpy as np
import pytest
from PIL import Image

from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions, open_job
from pipelines.errors import UserError
from pipelines.inspect.inspect import inspect
from pipelines.inspect.options import InspectOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain
from pipelines.publish.publish import PublishOptions, publish
from pipelines.verify.verify import VerifyOptions, verify
from saliency.table.table import SaliencyTable


@pytest.fixture
def folders(tmp_path):
    """Three clips as folders of frames, with captions beside them."""
    place = tmp_path / "clips"
    for name in ("one", "three", "two"):
        (place / name).mkdir(parents=True)
        (place / f"{name}.txt").write_text(f"a thing called {name}")
        for number in range(5):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number:05d}.png")
    return place


def test_a_folder_of_frames_has_one_map_and_pretraining_finds_it(folders, tmp_path, tiny_clip):
    maps = tmp_path / "maps"
    build_saliency(BuildOptions(str(folders), maps, clip=tiny_clip, clips=True, batch_size=2, workers=1), quiet=True)
    assert SaliencyTable(maps).keys.to_pylist() == ["one", "three", "two"]
    shape = {"model": "mini", "image_size": (16,), "patch_size": 8, "frames": 4, "frame_stride": 1, "mask_ratio": 0.75}
    options = PretrainOptions(str(folders), tmp_path / "run", saliency=maps, batch_size=2, epochs=1, workers=0, **shape)
    assert pretrain(options, quiet=True).config()["maps"]["images_without_map"] == 0
    assert inspect(InspectOptions(str(maps))).facts["maps"] == "3"
    checks = verify(VerifyOptions(str(maps), str(folders)), quiet=True)
    assert all(check.passed for check in checks), checks
    (tmp_path / "hub").mkdir()
    publish(PublishOptions(maps, "me/maps", dry_run=tmp_path / "hub" / "maps"), quiet=True)
    assert "--clips" in (tmp_path / "hub" / "maps" / "README.md").read_text()


def test_clips_without_captions_say_where_to_write_them(folders, tmp_path, tiny_clip):
    for text in folders.glob("*.txt"):
        text.unlink()
    with pytest.raises(UserError, match="write NAME.txt next to each clip"):
        open_job(BuildOptions(str(folders), tmp_path / "maps", clip=tiny_clip, clips=True))
