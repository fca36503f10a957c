"""Exported maps: what the files hold, that they come back, and that no key leads anywhere."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import saliency_mae as sm
from pipelines.errors import UserError
from pipelines.export_maps.export_maps import export_maps
from pipelines.export_maps.file_names import file_names
from pipelines.export_maps.options import ExportMapsOptions
from pipelines.outputs import INDEX, MADE_WITH
from saliency.maps import quantise
from saliency.table.table import Row, SaliencyTable, write_shard
from tests.pipelines.import_maps.test_import_maps import photos, run, tree

KEYS = ("a/x.jpg", "a/x.png", "../../etc/passwd", "b\\c", "a/x.jpg", "A/X")
CAPTIONS = ("one", "one", "two", "", "two\n\u2028lines", "é")
MADE = {"schema_version": 1, "grid": 3, "clip": "ViT-B-16", "method": "gradcam", "layer": "ln_1"}


@pytest.fixture
def maps(tmp_path):
    """A table of hostile keys; returns its folder."""
    raw = np.random.default_rng(0).random((len(KEYS), 3, 3)).astype(np.float32) * 5
    raw[2] = 0
    rows = [Row(k, None, c, "ab" * 32, 30, 20, (0.0, 0.0, 0.5, 1.0), 0.1) for k, c in zip(KEYS, CAPTIONS, strict=True)]
    for number in range(2):
        part = slice(3 * number, 3 * number + 3)
        path = tmp_path / "maps" / "data" / f"train-0000{number}-of-00002.parquet"
        write_shard(path, rows[part], *quantise(raw[part]), MADE)
    return tmp_path / "maps"


def index(folder):
    return [json.loads(line) for line in (folder / INDEX).read_text().split("\n") if line]


@pytest.mark.parametrize("to", ["png", "npy"])
def test_every_map_is_a_file_and_the_index_says_whose(maps, tmp_path, to):
    done = run("export-maps", maps, "--to", to, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    table, lines = SaliencyTable(maps), index(tmp_path / "out")
    assert [(line["key"], line["caption"]) for line in lines] == list(zip(KEYS, CAPTIONS, strict=True))
    numbers = np.arange(len(KEYS))
    for line, stored, raw in zip(lines, table.maps(numbers), table.raw_maps(numbers), strict=True):
        path = tmp_path / "out" / line["file"]
        assert path.resolve().is_relative_to(tmp_path / "out")
        if to == "png":
            with Image.open(path) as image:
                assert image.mode == "L"
                np.testing.assert_array_equal(np.asarray(image), stored)
                np.testing.assert_allclose(line["vmin"] + line["scale"] * np.asarray(image) / 255, raw, atol=1e-6)
        else:
            held = np.load(path)
            assert held.dtype == np.float32
            np.testing.assert_array_equal(held, raw)
        assert line["crop_box"] == [0, 0, 0.5, 1]
    assert json.loads((tmp_path / "out" / MADE_WITH).read_text()) == MADE


@pytest.mark.parametrize("to", ["png", "npy"])
def test_what_is_exported_is_imported_again(tmp_path, to):
    source = photos(tmp_path / "photos", 5)
    given = sm.import_maps("shapes:5", "masks", tmp_path / "maps", grid=7, quiet=True)
    exported = sm.export_maps(given, tmp_path / "out", to=to, quiet=True)
    assert str(exported) == f"5 maps in {tmp_path / 'out'}"
    again = sm.import_maps("shapes:5", exported, tmp_path / "again", grid=7, quiet=True)
    numbers, first, second = np.arange(5), SaliencyTable(given), SaliencyTable(again)
    np.testing.assert_array_equal(first.maps(numbers), second.maps(numbers))
    np.testing.assert_allclose(first.raw_maps(numbers), second.raw_maps(numbers), atol=1e-6)
    assert first.keys.equals(second.keys)
    assert not sm.verify(again, "shapes:5", quiet=True).failed
    sm.export_maps(given, source / "inside", to=to, quiet=True)
    from pipelines.sources.open_source import open_source

    assert len(open_source(str(source))) == 5  # exported maps inside a source are none of its images


def test_what_was_stopped_is_written_again_and_what_is_not_ours_stays(maps, tmp_path, monkeypatch):
    from pipelines.export_maps import export_maps as module

    sm.export_maps(maps, tmp_path / "whole", to="png", quiet=True)
    write, calls = module.write_atomically, iter(range(9))

    def stopped(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", stopped)
        with pytest.raises(KeyboardInterrupt):
            sm.export_maps(maps, tmp_path / "out", to="png", quiet=True)
    sm.export_maps(maps, tmp_path / "out", to="png", quiet=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    with pytest.raises(UserError, match=f"is not an empty folder \\(found {INDEX}\\); give a new one"):
        sm.export_maps(maps, tmp_path / "out", to="png", quiet=True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match=r"found letter.txt"):
        export_maps(ExportMapsOptions(str(maps), "npy", tmp_path / "own"), quiet=True)
    for words, told in (
        ([tmp_path, "--to", "png", "--out", tmp_path / "x"], "holds no saliency maps"),
        ([maps, "--to", "jpg", "--out", tmp_path / "x"], "--to 'jpg' is not one of: png, npy"),
        ([maps, "--to", "png", "--out", maps], "is what is read"),
    ):
        done = run("export-maps", *words)
        assert done.exit_code == 2
        assert told in done.output


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (["a/1.jpg", "a/2.jpeg"], ["a/1.png", "a/2.png"]),
        (["1.jpg", "1.png", "1"], ["1.jpg.png", "1.png.png", "1.png"]),
        (["1.jpg", "1.jpg", "1.jpg"], ["1.png", "1-2.png", "1-3.png"]),
        (["a", "A"], ["a.png", "A-2.png"]),
        (["a", "a.png/b"], ["a-2.png", "a.png/b.png"]),
        (["../x", "/x", "x\\..\\y", ""], ["_/x.png", "x.png", "x/_/y.png", "_.png"]),
        ([".hidden", "con.txt", "a:b*?", "tab\there"], ["_hidden.png", "_con.txt.png", "a_b__.png", "tab_here.png"]),
        (["v1.5", "é"], ["v1.5.png", "é.png"]),
    ],
)
def test_names_of_keys(keys, wanted):
    assert file_names(keys, ".png") == wanted


@given(st.lists(st.text(max_size=40) | st.text("aA./\\-2", max_size=8), max_size=20))
def test_no_name_leads_out_or_stands_twice(keys):
    keys = [key.encode("utf-8", "replace").decode() for key in keys]
    names = file_names(keys, ".npy", (INDEX,))
    assert len({name.casefold() for name in names}) == len(keys)
    folders = {
        part for name in names for part in ["/".join(name.split("/")[:i]) for i in range(1, name.count("/") + 1)]
    }
    assert not {name.casefold() for name in names} & {folder.casefold() for folder in folders}
    for name in names:
        assert name.isprintable()
        assert name.endswith(".npy")
        assert "\\" not in name
        assert all(part and not part.startswith(".") and len(part.encode()) < 160 for part in name.split("/"))
