"""``shapes:N``: labels and captions known without drawing are those of the drawn scenes."""

import pickle

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.sources.scenes.scene_drawing import COLORS, SHAPES, draw_scene
from pipelines.sources.scenes.scenes import parse_scenes


@pytest.mark.parametrize(
    ("spec", "options"),
    [("shapes:12", {}), ("shapes:12,split=test,objects=2-3,size=32", {"split": "test", "objects": (2, 3), "size": 32})],
)
def test_columns_are_those_of_the_drawn_scenes(spec, options):
    source = open_source(spec)
    scenes = [draw_scene(i, **options) for i in range(12)]
    assert source.captions.to_pylist() == [scene.caption for scene in scenes]
    assert source.labels.tolist() == [scene.label for scene in scenes]
    assert source.label_names == list(COLORS)
    for i in (0, 11):
        assert np.array_equal(np.asarray(decode_rgb(source.read_image(i))), scenes[i].image)
        assert np.array_equal(source.read_mask(i), scenes[i].mask)


def test_keys_name_all_that_a_scene_depends_on():
    assert open_source("shapes:2").keys.to_pylist() == ["shapes-train-000000", "shapes-train-000001"]
    assert open_source("shapes:1,split=test,objects=2-3").keys.to_pylist() == ["shapes-test-objects2-3-000000"]
    assert open_source("shapes:1,size=64", split="val").keys.to_pylist() == ["shapes-val-size64-000000"]


def test_other_sizes_of_the_objects_and_other_labels_are_the_same_scenes():
    scenes = [parse_scenes(f"shapes:6,objects=1{more}") for more in ("", ",radius=0.08-0.1,label=shape", ",radius=.3")]
    assert [next(iter(s.keys()[:1].to_pylist())) for s in scenes] == [
        "shapes-train-objects1-1-000000",
        "shapes-train-objects1-1-radius0.08-0.1-000000",
        "shapes-train-objects1-1-radius0.3-0.3-000000",
    ]
    for i in range(6):
        usual, small, large = (s.draw(i) for s in scenes)
        assert usual.objects == small.objects == large.objects
        assert 0 < small.mask.sum() < usual.mask.sum() < large.mask.sum()
        away = ~(usual.mask | small.mask | large.mask)
        assert np.abs(usual.image[away].astype(int) - small.image[away]).mean() < 2  # only edges are softened
        assert SHAPES[scenes[1].labels()[i]] == usual.objects[0][1]
        assert list(COLORS)[scenes[0].labels()[i]] == usual.objects[0][0]
    assert open_source("shapes:2,label=shape").label_names == list(SHAPES)
    assert open_source("shapes-video:2,radius=0.1,frames=4").keys[0].as_py().endswith("radius0.1-0.1-000000")


def test_single_captions_limits_and_selections_agree():
    source = open_source("shapes:9", limit=5)
    assert len(source) == 5
    captions = [source.caption(i) for i in range(5)]
    assert captions == source.captions.to_pylist()
    chosen = open_source("shapes:9").select([4, 2])
    assert chosen.captions.to_pylist() == [captions[4], captions[2]]
    assert chosen[0].caption == captions[4]
    assert chosen[0].image == source[4].image
    copy = pickle.loads(pickle.dumps(source))
    assert copy[3] == source[3]
    assert len(pickle.dumps(source)) < 5_000


@pytest.mark.parametrize(
    "spec",
    [
        "shapes:", "shapes:0", "shapes:-1", "shapes:many", "shapes:5,", "shapes:5,split=", "shapes:5,objects=0-2",
        "shapes:5,objects=3-2", "shapes:5,objects=1-4", "shapes:5,size=1", "shapes:5,size=x", "shapes:5,colour=red",
        "shapes:5,size=32,size=64", "shapes:5,split=a/b",
        "shapes:5,radius=0", "shapes:5,radius=0.2-0.1", "shapes:5,radius=x",
        "shapes:5,radius=0.3", "shapes:5,label=size",
    ],
)  # fmt: skip
def test_bad_options_show_the_grammar(spec):
    with pytest.raises(UserError, match=r"shapes:N\[,split=NAME\]\[,objects=A-B\]\[,size=PIXELS\]"):
        open_source(spec)


def test_one_number_of_objects_and_two_splits():
    assert parse_scenes("shapes:5,objects=2").objects == (2, 2)
    assert parse_scenes("shapes:5,split=test", "test").split == "test"
    with pytest.raises(UserError, match="'test' and 'train'"):
        parse_scenes("shapes:5,split=test", "train")


def test_swapped_captions_name_another_object_and_one_that_is_not_there():
    source = open_source("shapes:40,split=test,size=48")
    for i, scene in enumerate(draw_scene(i, split="test", size=48) for i in range(40)):
        swap = source.swap(i)
        taken = {word for named in scene.objects for word in named}
        assert not taken & set(swap.absent.split())
        (color, shape), words = scene.objects[0], source.caption(i).split()
        assert [color, shape] == words[words.index(color) :][:2]
        if len(scene.objects) == 1:
            assert swap.present is swap.mask is None
            continue
        (other_color, other_shape), there = scene.objects[1], swap.present.split()
        assert [other_color, other_shape] == there[there.index(other_color) :][:2]
        assert swap.mask.any()
        assert not (swap.mask & scene.mask).any()
        means = scene.image[swap.mask].mean(axis=0), np.asarray(COLORS[other_color])
        assert np.abs(means[0] - means[1]).max() < 60  # shaded, and yet of that colour
    assert source.select([7]).swap(0).absent == source.swap(7).absent
    assert "an orange" in {" ".join(source.swap(i).absent.split()[-3:-1]) for i in range(40)}
    assert pickle.loads(pickle.dumps(source)).swap(3).present == source.swap(3).present
