"""Maps that are imported: the same folder as a built one, and all commands know what its maps are."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
import saliency_mae as sm
from pipelines.errors import UserError
from pipelines.evaluate.independent_maps import check_independent, check_truth
from pipelines.import_maps.import_maps import UNMATCHED, import_maps
from pipelines.import_maps.options import ImportOptions
from pipelines.sources.open_source import open_source
from saliency.resample import area_resample
from saliency.table.shard import METADATA_KEY
from saliency.table.table import SaliencyTable, shard_files


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def rejects(folder):
    lines = (path.read_text().splitlines() for path in sorted((folder / "rejected").glob("*.jsonl")))
    return {line["key"]: line["reason"] for file in lines for line in map(json.loads, file)}


def tree(folder):
    own = (path for path in folder.rglob("*") if ".cache" not in path.parts and path.name != "command.yaml")
    files = (path for path in own if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def photos(folder, count=4, size=(32, 24), captions=True):
    """A folder of plain images ``0.png`` …, with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (40 * i, 90, 200)).save(folder / f"{i}.png")
        if captions:
            (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    out = tmp_path_factory.mktemp("oracle") / "maps"
    return sm.import_maps("shapes:24", "masks", out, quiet=True, shard_size=10)


def test_true_masks_are_area_means_and_point_right(oracle, tmp_path):
    table, source = SaliencyTable(oracle), open_source("shapes:24")
    means = area_resample(np_to_tensor(source.read_mask(3)), (28, 28))[0].numpy()
    np.testing.assert_allclose(table.raw_maps(np.asarray([3]))[0], means, atol=1 / 500)
    done = run("inspect", oracle.folder, "--json", tmp_path / "found.json", "--gallery", tmp_path / "maps.png")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["judgement"]["figures"]["maps"]["pointing"]["mean"] == 1
    assert found["judgement"]["no_shuffle"] == "the maps are imported, and no CLIP makes them anew"
    assert "clip_score" not in found["facts"]
    assert "imported: true masks" in done.output
    assert "cos(image, caption)" not in done.output


def np_to_tensor(mask):
    import torch

    return torch.from_numpy(mask)[None].float()


def test_an_older_reader_finds_the_schema_it_knows(oracle):
    """Version 1, no null, a text wherever a text is asked for, and scores within their range."""
    file = pq.read_table(shard_files(oracle.folder)[0])
    made = json.loads(file.schema.metadata[METADATA_KEY])
    assert made == {
        "schema_version": 1, "grid": 28, "clip": "none", "method": "imported: true masks", "imported_from": "masks",
        "package_version": sm.__version__,
    }  # fmt: skip
    assert set(file["clip_score"].to_pylist()) == {0.0}
    assert np.isnan(oracle.open()[0].score)
    assert sm.verify(oracle, "shapes:24", quiet=True).passed


def test_what_was_stopped_ends_byte_identical(oracle, tmp_path, monkeypatch):
    from pipelines.build import maps_folder

    write, calls = maps_folder.write_shard, iter(range(9))

    def stopped(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        write(*arguments)

    options = ImportOptions("shapes:24", "masks", tmp_path / "maps", shard_size=10)
    with monkeypatch.context() as patch:
        patch.setattr(maps_folder, "write_shard", stopped)
        with pytest.raises(KeyboardInterrupt):
            import_maps(options, quiet=True)
    assert len(shard_files(tmp_path / "maps")) == 1
    with pytest.raises(UserError, match="other settings"):
        sm.import_maps("shapes:24", "masks", tmp_path / "maps", shard_size=10, grid=7, quiet=True)
    import_maps(options, quiet=True)
    assert tree(tmp_path / "maps") == tree(oracle.folder)


def test_pretrain_and_its_readings_take_them(oracle, tmp_path, nano):
    small = {"model": "nano", "image_size": 32, "patch_size": 8, "batch_size": 8, "epochs": 1, "workers": 0}
    for reading in ("image", "mask", "salient"):
        trained = sm.pretrain("shapes:24", tmp_path / reading, saliency=oracle, salient_of=reading, quiet=True, **small)
        assert trained.config()["maps"]["method"] == "imported: true masks"
    with pytest.raises(UserError, match="is trained with true masks"):
        check_truth([str(tmp_path / "mask")])
    table = SaliencyTable(oracle)
    with pytest.raises(UserError, match="made as the maps"):
        check_independent("elsewhere", table.metadata | {"imported_from": "x"}, [str(tmp_path / "mask")])


def test_the_card_says_what_they_are(oracle, tmp_path):
    sm.publish(oracle, "me/oracle", dry_run=tmp_path / "card", preview=2, quiet=True)
    card = (tmp_path / "card" / "README.md").read_text()
    assert "they were imported from true masks of the images themselves" in card
    assert "mae-cli import-maps shapes:24 --out maps/ --from masks --grid 28 --shard-size 10" in card
    assert "0 where `clip` is `none`" in card
    assert "what one CLIP attends to" not in card
    assert "- clip\n" not in card


def test_a_source_without_captions_needs_none(tmp_path):
    source = photos(tmp_path / "photos", captions=False)
    for i in range(3):
        Image.fromarray(np.eye(24, 32, i, np.uint8) * 255).save(source / f"{i}_mask.png")
    maps = sm.import_maps(source, "masks", tmp_path / "maps", max_rejected=0.5, quiet=True)
    assert rejects(maps.folder) == {"3.png": "it has no true mask"}
    assert maps.open()["1.png", ""].caption == ""
    rows = SaliencyTable(maps).join(open_source(str(source)).keys)
    assert rows.tolist() == [0, 1, 2, -1]
    found = sm.verify(maps, source, quiet=True)
    assert found.passed, found


def test_bad_pairs_are_recorded_and_the_others_kept(tmp_path):
    source = photos(tmp_path / "photos", 6)
    masks = tmp_path / "masks"
    masks.mkdir()
    good = np.zeros((24, 32), np.uint8)
    good[:12] = 255
    Image.fromarray(good).save(masks / "0.png")
    Image.fromarray(good[:20]).save(masks / "1.png")
    np.save(masks / "2.npy", np.full((7, 7), np.nan))
    np.save(masks / "3.npy", np.linspace(-1, 1, 49).reshape(7, 7))
    Image.new("RGB", (32, 24), (255, 0, 0)).save(masks / "4.png")
    (source / "5.png").write_bytes((source / "5.png").read_bytes()[:60])
    np.save(masks / "5.npy", good)
    np.save(masks / "other.npy", good)
    with pytest.raises(UserError, match="5 of 6 pairs"):
        sm.import_maps(source, masks, tmp_path / "maps", quiet=True)
    reasons = rejects(tmp_path / "maps")
    assert reasons["1.png"] == "its mask has 32×20 pixels, and its image 32×24"
    assert reasons["2.png"] == "its map holds a value that is not finite"
    assert reasons["3.png"] == "its map holds a negative value (-1)"
    assert reasons["4.png"] == "its map is an image in colour, and not a grey one"
    assert "5.png" in reasons
    done = run("import-maps", source, "--from", masks, "--out", tmp_path / "maps", "--max-rejected", 0.9)
    assert done.exit_code == 0, done.output
    assert "6 pairs: 1 maps" in done.output
    assert "1 maps belong to no image" in done.output
    assert [json.loads(line)["name"] for line in (tmp_path / "maps" / UNMATCHED).open()] == ["other"]
    table = SaliencyTable(tmp_path / "maps")
    np.testing.assert_allclose(table.raw_maps(np.asarray([0]))[0], np.repeat([1.0, 0.0], 14)[:, None] * np.ones(28))
    assert sm.verify(tmp_path / "maps", quiet=True).passed


def lines_of_mistakes(folder):
    """The words after ``--from``, and what the one line says."""
    np.savez(folder / "npz" / "0.npz", a=np.ones((3, 3)), b=np.ones((3, 3)))
    (folder / "no.csv").write_text("image,left,top\n0.png,1,2\n")
    (folder / "gaze.csv").write_text("image,x,y\n0.png,1,2\n")
    (folder / "far.csv").write_text("image,x,y\nz.png,1,2\n")
    (folder / "small.csv").write_text("image,x,y\n0.png,0.1,0.2\n")
    (folder / "words.csv").write_text("image,x,y\n0.png,left,0.2\n")
    (folder / "no.json").write_text('{"images": []}')
    (folder / "no.parquet").write_bytes(b"PAR1")
    (folder / "twice" / "0.npy").write_bytes((folder / "twice" / "0.png").read_bytes())
    return {
        "nothing-there": "is not masks, nor a file or folder: give masks",
        f"{folder / 'photo.jpg'}": "is of no kind that is known: give masks",
        f"{folder / 'empty'}": "holds no maps: it has no .png, .npy, .npz files",
        f"{folder / 'npz'}": "its NPZ file has 2 arrays (a, b): name one with --array",
        f"{folder / 'npz'} --array c": "its NPZ file has no array 'c': it has a, b",
        f"{folder / 'twice'}": "has 2 maps of one key: 0.npy and 0.png",
        f"{folder / 'no.csv'}": "it has: image, left, top: name the column with --map-column",
        f"{folder / 'no.csv'} --map-column heat": "has no column 'heat', which --map-column names; it has: image",
        f"{folder / 'gaze.csv'}": "say with --units whether they are pixels",
        f"{folder / 'gaze.csv'} --units pixels --sigma 0": "--sigma is 0.0; it must be above 0",
        f"{folder / 'gaze.csv'} --units pixels --key-column name": "has no column 'name', which --key-column names",
        f"{folder / 'far.csv'} --units pixels": "its first key is '0.png', the maps' first is 'z.png'",
        f"{folder / 'small.csv'} --units pixels": "no x or y of ",
        f"{folder / 'words.csv'} --units pixels": "column 'x' does not hold numbers",
        f"{folder / 'no.json'}": "is not in the form of SALICON's fixations (annotations is missing)",
        f"{folder / 'no.parquet'}": "is not a complete Parquet file",
        "masks": "has no true masks: it needs a column mask, mask_file_name or box",
        "masks --sigma 0.1": "--sigma has no effect with --from masks; it holds no fixations",
        "masks --units pixels": "--units has no effect with --from masks",
        "masks --made-by me": "--made-by has no effect with --from masks",
        f"{folder / 'gaze.csv'} --units pixels --array a": "--array has no effect with --from",
        f"{folder / 'twice'} --key-column a": "--key-column has no effect with --from",
        "masks --grid 300": "--grid is 300; it must be between 1 and 256",
    }


def test_a_mistake_is_one_clear_line(tmp_path):
    source = photos(tmp_path / "photos", 2)
    folder = tmp_path / "given"
    for name in ("empty", "npz", "twice"):
        (folder / name).mkdir(parents=True)
    Image.new("L", (4, 4)).save(folder / "twice" / "0.png")
    (folder / "photo.jpg").write_bytes(b"x")
    for words, told in lines_of_mistakes(folder).items():
        done = run("import-maps", source, "--out", tmp_path / "maps", "--from", *words.split())
        assert done.exit_code == 2, (words, done.output)
        (line,) = [line for line in done.output.splitlines() if not line.startswith("warning")]
        assert line.startswith("error: "), words
        assert told in line, words
        assert not (tmp_path / "maps").exists()


def test_a_maps_folder_needs_no_import_and_another_version_is_named(oracle, tmp_path):
    done = run("import-maps", "shapes:24", "--from", oracle.folder, "--out", tmp_path / "maps")
    assert done.exit_code == 2
    assert "is a maps folder already" in done.output
    path = tmp_path / "new" / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    rows = pq.read_table(shard_files(oracle.folder)[0])
    made = json.loads(rows.schema.metadata[METADATA_KEY]) | {"schema_version": 3}
    pq.write_table(rows.replace_schema_metadata({METADATA_KEY: json.dumps(made)}), path)
    for words in (["--from", tmp_path / "new"], ["--from", path]):
        done = run("import-maps", "shapes:24", *words, "--out", tmp_path / "maps")
        assert done.exit_code == 2, done.output
        assert "schema version 3, not 1" in done.output
