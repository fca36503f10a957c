import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.errors import UserError
from pipelines.inspect.inspect import inspect
from pipelines.inspect.options import InspectOptions
from pipelines.plots import _wrapped, contact_sheet
from tests.pipelines.build.test_build_saliency import write_pictures


def run(*arguments):
    return CliRunner().invoke(cli.app, ["inspect", *(str(argument) for argument in arguments)])


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def scene_maps(tmp_path_factory):
    """Maps of 100 unseen scenes by the shipped CLIP, which is the default for scenes."""
    out = tmp_path_factory.mktemp("scenes") / "maps"
    build_saliency(BuildOptions("shapes:100,split=unseen,objects=2-3", out), quiet=True)
    return out


@pytest.fixture
def plain_maps(tmp_path, tiny_clip):
    """Maps of three pictures without masks."""
    pictures = write_pictures(tmp_path / "pictures", ["a", "b", "c"])
    build_saliency(BuildOptions(str(pictures), tmp_path / "maps", clip=tiny_clip), quiet=True)
    return tmp_path / "maps"


def test_the_shipped_clip_finds_the_named_object(scene_maps):
    found = inspect(InspectOptions(str(scene_maps)))
    figures = found.judgement.figures
    assert found.judgement.judged == 100
    assert figures["maps"]["pointing"].mean >= 0.85
    assert figures["centre_prior"]["pointing"].mean < 0.25
    assert figures["shuffled_caption"]["pointing"].mean < 0.55
    assert found.unmet(["pointing", "energy", "iou", "auc"]) == []
    assert found.facts["clip"] == "demo"
    assert found.facts["grid"] == "12×12"
    assert found.facts["pairs"] == "100 in = 100 written + 0 rejected"
    assert found.facts["judged pairs"] == "100 of 100, 100 images"


def test_limit_and_numbers(scene_maps, tmp_path):
    found = inspect(InspectOptions(str(scene_maps), limit=20, json=tmp_path / "new" / "maps.json"))
    assert found.judgement.judged == 20
    numbers = json.loads((tmp_path / "new" / "maps.json").read_text())
    assert numbers["kind"] == "maps"
    assert numbers["facts"]["maps"] == 100
    assert numbers["facts"]["pairs"] == {"in": 100, "written": 100, "rejected": 0}
    assert numbers["facts"]["made_with"]["method"] == "gradcam"
    assert numbers["judgement"]["figures"]["maps"]["auc"]["mean"] == found.judgement.figures["maps"]["auc"].mean
    assert numbers["judgement"]["beats_centre_prior"]["pointing"] is True
    assert set(numbers["judgement"]["differences"]) == {"centre_prior", "shuffled_caption", "uniform"}


def test_the_gallery_has_pages_and_the_best_and_the_worst(scene_maps, tmp_path):
    found = inspect(InspectOptions(str(scene_maps), gallery=tmp_path / "g.png", gallery_size=13, limit=30))
    names = ["g.png", "g-2.png", "g-best.png", "g-worst.png"]
    assert found.numbers["gallery"] == [str(tmp_path / name) for name in names]
    assert found.facts["gallery"] == f"{tmp_path / 'g.png'}, g-2.png, g-best.png, g-worst.png"
    shapes = {name: pixels_of(tmp_path / name).shape for name in names}
    assert min(shapes["g.png"][:2]) > 400
    assert shapes["g-2.png"][0] < shapes["g.png"][0] / 5
    assert shapes["g-best.png"] == shapes["g.png"]
    assert pixels_of(tmp_path / "g.png").std() > 30


def test_galleries_show_pairs_from_all_over(scene_maps, tmp_path, monkeypatch):
    sheets = {}
    monkeypatch.setattr(
        "pipelines.inspect.galleries.contact_sheet", lambda path, columns, title: sheets.update({path.name: columns})
    )
    found = inspect(InspectOptions(str(scene_maps), gallery=tmp_path / "g.png", gallery_size=4))
    from pipelines.sources.open_source import open_source

    captions = open_source("shapes:100,split=unseen,objects=2-3").captions.to_pylist()
    assert sheets["g.png"]["caption"] == [captions[i] for i in (0, 25, 50, 75)]
    assert set(sheets["g.png"]) == {"image", "caption", "map over image", "map", "true mask", "verdict"}
    scores = found.judgement.per_pair
    best = sorted(range(100), key=lambda i: (scores.pointing[i], scores.energy[i]), reverse=True)[:4]
    assert sheets["g-best.png"]["caption"] == [captions[i] for i in best]
    assert sheets["g-best.png"]["verdict"][0].startswith(f"HIT\nenergy {scores.energy[best[0]]:.2f}\n(chance ")
    assert sheets["g-worst.png"]["verdict"][0].startswith("MISS\n")


def test_maps_without_masks(plain_maps, tmp_path):
    found = inspect(InspectOptions(str(plain_maps), gallery=tmp_path / "g.png"))
    assert found.numbers["gallery"] == [str(tmp_path / "g.png")]
    assert found.judgement.table() == []
    assert set(found.judgement.statistics) == {
        "degenerate",
        "entropy",
        "area",
        "centre_correlation",
        "caption_sensitivity",
    }
    assert "caption sensitivity (none: 0)" in found.facts
    with pytest.raises(UserError, match="has no masks or boxes"):
        inspect(InspectOptions(str(plain_maps), require=("pointing",)))


def test_maps_whose_images_are_gone_or_elsewhere(plain_maps, tmp_path):
    assert "images" not in inspect(InspectOptions(str(plain_maps))).facts
    (tmp_path / "pictures").rename(tmp_path / "moved")
    found = inspect(InspectOptions(str(plain_maps)))
    assert "give --source" in found.facts["images"]
    assert found.judgement.seen == 3
    with pytest.raises(UserError, match="give --source"):
        inspect(InspectOptions(str(plain_maps), gallery=tmp_path / "g.png"))
    with pytest.raises(UserError, match="give --source"):
        inspect(InspectOptions(str(plain_maps), require=("iou",)))
    found = inspect(InspectOptions(str(plain_maps), source=str(tmp_path / "moved"), gallery=tmp_path / "g.png"))
    assert (tmp_path / "g.png").exists()
    assert found.numbers["maps"] == 3
    with pytest.raises(UserError, match="of another source"):
        inspect(InspectOptions(str(plain_maps), source="shapes:3"))
    with pytest.raises(UserError, match="does not exist"):
        inspect(InspectOptions(str(plain_maps), source=str(tmp_path / "pictures")))


def test_a_source(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", ["a dog", None, "c"])
    (pictures / "002.png").write_bytes(b"broken")
    found = inspect(InspectOptions(str(pictures), gallery=tmp_path / "g.png", json=tmp_path / "source.json"))
    assert found.facts["pairs"] == "3"
    assert found.facts["captions"] == "2 of 3, first: a dog"
    assert found.facts["true masks"] == "no"
    assert found.facts["sizes of the first 200"] == "40×30 (2)"
    assert found.facts["unreadable of the first 200"].startswith("1, first: 002.png")
    assert (tmp_path / "g.png").exists()
    numbers = json.loads((tmp_path / "source.json").read_text())
    assert numbers["kind"] == "source"
    assert numbers["judgement"] is None
    assert numbers["facts"]["sizes"] == [{"width": 40, "height": 30, "images": 2}]
    assert (numbers["facts"]["unreadable"], numbers["facts"]["captions"]) == (1, 2)
    assert inspect(InspectOptions("shapes:20")).numbers["classes"] == 8


def test_what_is_nothing(tmp_path):
    with pytest.raises(UserError, match="empty folder"):
        inspect(InspectOptions(str(tmp_path)))
    with pytest.raises(UserError, match="does not exist"):
        inspect(InspectOptions(str(tmp_path / "nowhere" / "at" / "all")))


# ---- the command


def test_the_command_prints_a_table_and_a_verdict(scene_maps):
    result = run(scene_maps, "--limit", 30, "--require", "pointing", "--require", "auc")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["pointing", "energy", "IoU", "AUC"] in lines
    starts = ("maps", "centre prior", "shuffled caption", "uniform", "maps − centre", "maps − shuffled")
    for start in starts:
        (row,) = [line for line in result.stdout.splitlines() if line.startswith(f"{start}  ") and line.count("±") == 4]
        assert len(row) <= 80
    assert "The maps beat the centre prior in every figure." in result.stdout


def test_a_requirement_that_is_not_met_is_a_verdict_not_a_mistake(scene_maps, tmp_path, monkeypatch):
    from saliency.table.table import SaliencyTable

    upside_down = SaliencyTable.raw_maps
    monkeypatch.setattr(SaliencyTable, "raw_maps", lambda self, rows: 1 - np.clip(upside_down(self, rows), 0, 1))
    result = run(scene_maps, "--limit", 20, "--require", "auc", "--json", tmp_path / "j.json")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["not met: the maps do not beat the centre prior in auc"]
    assert "The maps do not beat the centre prior" in result.stdout
    assert json.loads((tmp_path / "j.json").read_text())["judgement"]["beats_centre_prior"]["auc"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes:3", "--require", "pointing"], "judges maps"),
        (["shapes:3", "--require", "beauty"], "is not one of: pointing, energy, iou, auc"),
        (["shapes:3", "--gallery", "picture.xyz"], "ends in .png"),
        (["shapes:3", "--json", "."], "is a folder"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_maps_that_cannot_be_judged_are_a_mistake_of_the_asker(plain_maps):
    result = run(plain_maps, "--require", "pointing")
    assert result.exit_code == 2
    assert "has no masks or boxes" in result.stderr


# ---- contact sheets


def test_long_texts_are_wrapped_and_end_in_an_ellipsis():
    assert _wrapped("a red star") == "a red star"
    assert _wrapped("one\ntwo") == "one\ntwo"
    lines = _wrapped("word " * 200).splitlines()
    assert len(lines) == 7
    assert max(len(line) for line in lines) <= 22
    assert lines[-1].endswith(" …")
    assert _wrapped("\n".join("abcdefgh")).splitlines() == [*"abcdef", "g …"]
    assert _wrapped("") == ""


def test_any_caption_can_be_drawn(tmp_path, recwarn):
    """Dollar signs are no formula, and a script that the font lacks is no noise on the terminal."""
    captions = ["costs $5 or $6", r"$\frac{$", "一只狗", "x" * 500, ""]
    contact_sheet(tmp_path / "sheet.png", {"caption": captions})
    assert (tmp_path / "sheet.png").exists()
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
