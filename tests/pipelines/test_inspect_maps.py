import re

import numpy as np
import pytest
from PIL import Image

from pipelines.build_saliency import BuildOptions, build_saliency
from pipelines.errors import UserError
from pipelines.inspect_maps import inspect
from tests.pipelines.test_build_saliency import write_pictures


def share(text):
    return float(re.match(r"[0-9.]+", text)[0])


@pytest.fixture(scope="module")
def scene_maps(tmp_path_factory):
    """Maps of 100 unseen scenes by the shipped CLIP, which is the default for scenes."""
    out = tmp_path_factory.mktemp("scenes") / "maps"
    build_saliency(BuildOptions("shapes:100,split=unseen,objects=2-3", out), quiet=True)
    return out


def test_the_shipped_clip_finds_the_named_object(scene_maps):
    facts = inspect(str(scene_maps))
    assert facts["judged pairs"] == 100
    assert share(facts["pointing game"]) >= 0.85
    assert share(facts["… centre prior"]) < 0.25
    assert share(facts["… another caption"]) < 0.55
    assert facts["clip"] == "demo"
    assert facts["grid"] == "12×12"
    assert facts["pairs"] == "100 in = 100 written + 0 rejected"


def test_gallery_and_limit(scene_maps, tmp_path):
    facts = inspect(str(scene_maps), gallery=tmp_path / "g.png", limit=20)
    assert facts["judged pairs"] == 20
    pixels = np.asarray(Image.open(tmp_path / "g.png").convert("RGB"))
    assert min(pixels.shape[:2]) > 400
    assert pixels.std() > 30


def test_weights_that_changed_are_not_judged_with(scene_maps, tmp_path, monkeypatch):
    from saliency.towers import Tower

    monkeypatch.setattr(Tower, "weights_sha256", property(lambda _: "0", lambda *_: None), raising=False)
    facts = inspect(str(scene_maps), limit=5)
    assert "not those the maps were made with" in facts["… another caption"]
    assert share(facts["pointing game"]) > 0.5


def test_maps_whose_images_are_gone_or_elsewhere(tmp_path, tiny_clip):
    pictures = write_pictures(tmp_path / "pictures", ["a", "b", "c"])
    build_saliency(BuildOptions(str(pictures), tmp_path / "maps", clip=tiny_clip), quiet=True)
    assert "images" not in inspect(str(tmp_path / "maps"))
    pictures.rename(tmp_path / "moved")
    assert "give --source" in inspect(str(tmp_path / "maps"))["images"]
    facts = inspect(str(tmp_path / "maps"), source=str(tmp_path / "moved"), gallery=tmp_path / "g.png")
    assert (tmp_path / "g.png").exists()
    assert facts["maps"] == 3
    with pytest.raises(UserError, match="of another source"):
        inspect(str(tmp_path / "maps"), source="shapes:3")
    with pytest.raises(UserError, match="does not exist"):
        inspect(str(tmp_path / "maps"), source=str(tmp_path / "pictures"))


def test_a_cropped_map_lies_on_its_part_of_the_image(tmp_path, tiny_clip):
    from pipelines.inspect_maps import _on_whole_image

    whole = _on_whole_image(np.full((4, 4), 255, np.uint8), np.float32([0.25, 0, 0.75, 1]), (20, 40))
    assert (whole[:, 10:30] == 255).all()
    assert not whole[:, :10].any()
    assert not whole[:, 30:].any()


def test_a_source(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", ["a dog", None, "c"])
    (pictures / "002.png").write_bytes(b"broken")
    facts = inspect(str(pictures), gallery=tmp_path / "g.png")
    assert facts["pairs"] == 3
    assert facts["captions"] == "2 of 3, first: a dog"
    assert facts["true masks"] == "no"
    assert facts["sizes of the first 200"] == "40×30 (2)"
    assert facts["unreadable of the first 200"].startswith("1, first: 002.png")
    assert (tmp_path / "g.png").exists()
    assert inspect("shapes:20")["classes"] == 8


def test_what_is_nothing(tmp_path):
    with pytest.raises(UserError, match="empty folder"):
        inspect(str(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        inspect(str(tmp_path / "nowhere" / "at" / "all"))
