"""Names in NFC and NFD are one name, and names that are no text get keys: each another, never a crash."""

import io
import json
import os
import pickle
import unicodedata

import pytest
from PIL import Image

from pipelines.sources.names import find_file, text_names
from pipelines.sources.open_source import open_clips, open_source

FORMS = ("NFC", "NFD")


def png(value=9):
    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, format="PNG")
    return buffer.getvalue()


def form(name, kind):
    return unicodedata.normalize(kind, name)


@pytest.mark.parametrize(("there", "asked"), [FORMS, FORMS[::-1], ("NFC", "NFC")])
def test_files_are_found_in_either_form(tmp_path, there, asked):
    folder = tmp_path / form("Bücher", there)
    folder.mkdir()
    (folder / form("café.png", there)).write_bytes(b"x")
    found = find_file(tmp_path / form("Bücher", asked) / form("café.png", asked))
    assert found.read_bytes() == b"x"
    assert find_file(tmp_path / form("Bücher", asked) / "cafe.png") is None
    assert find_file(tmp_path / "a\0b") is None


def test_of_two_files_the_one_that_was_named_is_read(tmp_path):
    for kind in FORMS:
        (tmp_path / form("é.png", kind)).write_bytes(kind.encode())
        assert find_file(tmp_path / form("é.png", kind)).read_bytes() == kind.encode()


@pytest.mark.parametrize(("listed", "there"), [FORMS, FORMS[::-1]])
@pytest.mark.parametrize("below", ["", "Fotos à part/"])
def test_tables_find_files_of_the_other_form(tmp_path, listed, there, below):
    (tmp_path / form(below, there)).mkdir(exist_ok=True)
    (tmp_path / form(f"{below}é.png", there)).write_bytes(png())
    row = {"file_name": form("é.png", listed), "caption": "a", "mask_file_name": form("é.png", listed)}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False))
    source = open_source(str(tmp_path))
    assert source.keys.to_pylist() == [form("é.png", listed)], "the key is what the table says"
    assert source.read_image(0) == png()
    assert source.read_mask(0).all()


@pytest.mark.parametrize(("image", "text"), [FORMS, FORMS[::-1]])
def test_captions_and_masks_beside_images(tmp_path, image, text):
    (tmp_path / form("é.png", image)).write_bytes(png())
    (tmp_path / form("é.txt", text)).write_text("a")
    (tmp_path / form("é_mask.png", text)).write_bytes(png())
    source = open_source(str(tmp_path))
    assert source.keys.to_pylist() == [form("é.png", image)]
    assert source.captions.to_pylist() == ["a"]
    assert source.read_mask(0).all()


def test_the_source_itself(tmp_path):
    (tmp_path / form("é.csv", "NFD")).write_text("file_name,caption\nx.png,a\n")
    assert open_source(str(tmp_path / form("é.csv", "NFC"))).captions.to_pylist() == ["a"]
    (tmp_path / form("ü", "NFD")).mkdir()
    (tmp_path / form("ü", "NFD") / "x.png").write_bytes(png())
    assert len(open_source(str(tmp_path / form("ü", "NFC")))) == 1


def test_every_name_has_a_text_of_its_own():
    names = [os.fsdecode(name) for name in (b"a\xe9", b"a\\xe9", b"a\xe8", b"a\\xe9~", "aé".encode())]
    texts = text_names(names)
    assert texts == ["a\\xe9~~", "a\\xe9", "a\\xe8", "a\\xe9~", "aé"]
    assert text_names(["a", "b"]) == ["a", "b"]


@pytest.fixture
def odd(tmp_path):
    """A class tree with names in Latin-1; skips where the file system refuses them."""
    for folder in (b"caf\xe9", b"tea"):
        for name in (b"1.png", b"\xe9.png", b"\xe8.png"):
            path = tmp_path / "tree" / os.fsdecode(folder) / os.fsdecode(name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(name[0]))
            except OSError:
                pytest.skip("the file system has no such names")
    return tmp_path / "tree"


def test_a_tree_of_names_that_are_no_utf8(odd):
    source = open_source(str(odd))
    keys = ["caf\\xe9/1.png", "caf\\xe9/\\xe8.png", "caf\\xe9/\\xe9.png", "tea/1.png", "tea/\\xe8.png", "tea/\\xe9.png"]
    assert source.keys.to_pylist() == keys
    assert source.label_names == ["caf\\xe9", "tea"]
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.captions[0].as_py() == "a photo of a caf\\xe9"
    assert [source.read_image(i) for i in range(3)] == [png(value) for value in (ord("1"), 0xE8, 0xE9)]
    assert source.warnings == ["5 names are no UTF-8; the first has the key caf\\xe9/1.png"]
    assert pickle.loads(pickle.dumps(source)).read_image(2) == png(0xE9)


def test_prepare_takes_them_in(odd, tmp_path, hf_cache):
    from pipelines.prepare.options import PrepareOptions
    from pipelines.prepare.prepare import prepare

    manifest = prepare(PrepareOptions(str(odd), tmp_path / "out", size=32), quiet=True)
    assert (manifest.taken, manifest.written) == (6, 6)
    assert open_source(str(tmp_path / "out")).keys.to_pylist() == open_source(str(odd)).keys.to_pylist()


def test_frames_and_tables_in_a_folder_that_is_no_utf8(odd):
    folder = next(path for path in odd.iterdir() if path.name != "tea")
    (folder / "2.png").write_bytes(png())
    source = open_clips(str(odd))
    assert source.keys.to_pylist() == ["caf\\xe9"]
    (folder / "metadata.csv").write_text("file_name,caption\n1.png,a\n")
    listed = open_source(str(folder))
    assert listed.keys.to_pylist() == ["1.png"]
    assert listed.read_image(0) == png(ord("1"))


@pytest.mark.parametrize(("built", "trained"), [FORMS, FORMS[::-1]])
def test_maps_made_on_a_mac_join_elsewhere(tmp_path, tiny_clip, built, trained):
    from pipelines.build.build_saliency import build_saliency
    from pipelines.build.options import BuildOptions
    from pipelines.views.joined_maps import join_maps

    for kind in {built, trained}:
        for number, name in enumerate(("é", "plain", "ü")):
            (tmp_path / kind).mkdir(exist_ok=True)
            image = Image.new("RGB", (40, 30), (80 * number, 0, 0))
            image.save(tmp_path / kind / form(f"{name}.png", kind))
            (tmp_path / kind / form(f"{name}.txt", kind)).write_text(f"number {number}")
    build_saliency(BuildOptions(str(tmp_path / built), tmp_path / "maps", clip=tiny_clip), quiet=True)
    source = open_source(str(tmp_path / trained))
    joined = join_maps(tmp_path / "maps", source, on_missing="error")
    captions = joined.table.captions.take(joined.rows).to_pylist()
    assert captions == source.captions.to_pylist()
    assert sorted(joined.rows.tolist()) == [0, 1, 2]
