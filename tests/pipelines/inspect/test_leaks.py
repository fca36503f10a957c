import io

import numpy as np
import pytest
from PIL import Image

from pipelines.inspect.leaks import describe_leaks, hash_source
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.views.duplicates import find_leaks, within
from tests.pipelines.pretraining import invoke

COUNT = 60


def write(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.png")
    return open_source(str(folder))


def recoded(image):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=75)
    return Image.open(data).convert("RGB")


def cropped(image):
    width, height = image.size
    return image.crop((2, 2, width - 2, height - 2))


PLANTED = {
    "exact": (lambda image: image, 1.0),
    "near jpeg": (recoded, 0.95),
    "near resized": (lambda image: image.resize((64, 64), Image.Resampling.BICUBIC), 0.95),
    "near cropped": (cropped, 0.5),
    "mirrored": (lambda image: recoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), 0.9),
}


@pytest.fixture(scope="module")
def pictures():
    source = open_source(f"shapes:{COUNT},size=96")
    return source, [decode_rgb(source.read_image(i)) for i in range(COUNT)]


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_images_are_found(pictures, tmp_path, kind):
    source, images = pictures
    change, recall = PLANTED[kind]
    leaks = find_leaks(hash_source(source), hash_source(write(tmp_path / "other", map(change, images))))
    found = getattr(leaks, kind.split()[0])
    right = sum(mine == theirs for mine, theirs in found)
    print(kind, right / COUNT)
    assert right / COUNT >= recall


def test_other_images_are_not_found(pictures):
    other = open_source("shapes:300,size=96,split=probe")
    leaks = find_leaks(hash_source(pictures[0]), hash_source(other))
    print(len(leaks.near), len(leaks.mirrored))
    assert leaks.exact == []
    assert len(leaks.near) + len(leaks.mirrored) <= 3


@pytest.mark.parametrize("radius", [0, 3, 5, 7])
def test_matching_is_that_of_all_pairs(radius):
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, 500, np.uint64)
    queries = rng.integers(0, 2**64, 200, np.uint64)
    for i in range(150):  # planted, with 0 to 9 bits turned
        turned = rng.choice(64, i % 10, replace=False).astype(np.uint64)
        queries[i] = known[i] ^ np.bitwise_or.reduce(np.uint64(1) << turned, initial=np.uint64(0))
    bits = np.array([[bin(int(a) ^ int(b)).count("1") for a in known] for b in queries])
    found = within(known, queries, radius)
    nearest = bits.min(1)
    assert ((found >= 0) == (nearest <= radius)).all()
    assert (bits[np.arange(200), found][found >= 0] == nearest[found >= 0]).all()
    assert within(known[:0], queries[:3]).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="radius 8"):
        within(known, queries, 8)


def test_flat_images_have_no_near_duplicates(tmp_path):
    first = write(tmp_path / "a", [Image.new("RGB", (40, 40), (value, 0, 0)) for value in (10, 20)])
    second = write(tmp_path / "b", [Image.new("RGB", (40, 40), (value, 0, 0)) for value in (20, 30)])
    leaks = find_leaks(hash_source(first), hash_source(second))
    assert (leaks.exact, leaks.near, leaks.mirrored) == ([(1, 0)], [], [])


def test_the_command(tmp_path, pictures):
    write(tmp_path / "a", pictures[1][:8])
    write(tmp_path / "b", [pictures[1][3], *map(recoded, pictures[1][4:6]), pictures[1][40]])
    facts, numbers = describe_leaks(open_source(str(tmp_path / "a")), open_source(str(tmp_path / "b")))
    assert facts["same pixels"].startswith("1 of 4 images")
    assert len(numbers["leaks"]["nearly the same"]) == 2
    printed = invoke("inspect", tmp_path / "a", "--leaks", tmp_path / "b")
    assert printed.exit_code == 0, printed.output
    assert "1 of 4 images" in " ".join(printed.stdout.split())
