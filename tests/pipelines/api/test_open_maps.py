"""A maps folder, row by row."""

import numpy as np
import pytest

import saliency_mae as sm
from pipelines.sources.open_source import open_source
from tests.pipelines.build.test_build_saliency import write_pictures
from tests.tiny_mae import write_maps


@pytest.fixture
def maps(tmp_path):
    source = open_source(str(write_pictures(tmp_path / "pictures", ["one", "two", "three"])))
    raw = np.random.default_rng(1).random((3, 4, 4)).astype(np.float32)
    write_maps(tmp_path / "maps", source, maps=raw, boxes=[(0, 0, 1, 1), (0.25, 0, 0.75, 1), (0, 0, 1, 1)])
    return sm.open_maps(tmp_path / "maps"), raw


def test_rows_by_number_key_and_caption(maps):
    opened, raw = maps
    assert len(opened) == 3
    assert opened.grid == 4
    assert opened.metadata["method"] == "drawn"
    rows = list(opened)
    assert [row.key for row in rows] == ["000.png", "001.png", "002.png"]
    assert np.allclose([row.map for row in rows], raw, atol=1 / 500)
    assert [row.caption for row in rows] == ["one", "two", "three"]
    assert [row.box for row in rows] == [(0, 0, 1, 1), (0.25, 0, 0.75, 1), (0, 0, 1, 1)]
    assert rows[0].score == 0.25
    for row in (opened["001.png"], opened["001.png", "two"], opened[1], opened[-2]):
        assert row.key == "001.png"
        assert np.array_equal(row.map, rows[1].map)
    assert rows[1].on_image((8, 16))[:, :4].max() == 0
    with pytest.raises(sm.UserError, match="does not know its image's size"):
        rows[0].on_image()


def test_what_is_there(maps):
    opened, _ = maps
    assert "001.png" in opened
    assert ("001.png", "two") in opened
    assert ("001.png", "three") not in opened
    assert "x" not in opened
    assert 1 not in opened
    assert opened.captions("001.png") == ["two"]
    assert opened.captions("x") == []


def test_what_is_missing_is_named(maps):
    opened, _ = maps
    with pytest.raises(
        KeyError, match=r"has no map of the key 'x'; its keys are like: '000.png', '001.png', '002.png'\""
    ):
        opened["x"]
    with pytest.raises(KeyError, match=r"'001.png' has no map of the caption 'three'; it has: 'two'"):
        opened["001.png", "three"]
    with pytest.raises(KeyError, match="has no map of the key 'x'"):
        opened["x", "two"]
    with pytest.raises(IndexError, match="row 3 of 3"):
        opened[3]


def test_the_first_of_several_captions(tmp_path, tiny_clip):
    pictures = write_pictures(tmp_path / "pictures", ["one"])
    (pictures / "metadata.jsonl").write_text('{"file_name": "000.png", "caption": ["one", "other"]}\n')
    maps = sm.build_saliency(pictures, tmp_path / "maps", clip=tiny_clip, captions="all", quiet=True).open()
    assert maps.captions("000.png") == ["one", "other"]
    assert maps["000.png"].caption == "one"
    assert maps["000.png", "other"].caption == "other"


def test_no_table_is_one_line(tmp_path):
    with pytest.raises(sm.UserError, match="holds no saliency maps"):
        sm.open_maps(tmp_path)
