"""`reconstruct` on pictures: what is occluded is completed, all else is kept, bad input is a line or recorded."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from pipelines.reconstruct.options import ReconstructOptions, parse_box, parse_color
from tests.pipelines.pretraining import nano_options, nano_runs, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        nano_runs(patch)
        options = nano_options(tmp_path_factory.mktemp("run") / "run")
        return run(replace(options, masking="gate", image_size=(32,), epochs=1)).folder


def picture(path, width=50, height=37, seed=0, mode="RGB"):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(values).convert(mode).save(path)
    return path


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["reconstruct", *map(str, arguments), "--device", "cpu"])


def read(path):
    return np.asarray(Image.open(path))


def test_a_box_of_one_picture(trained, tmp_path):
    given = read(picture(tmp_path / "photo.png"))
    done = invoke(
        trained, tmp_path / "photo.png", "--box", "0.2,0.5,0.6,1", "--truth", tmp_path, "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    completed = read(tmp_path / "out" / "photo.png")
    inside = np.zeros((37, 50), bool)
    inside[18:37, 10:30] = True
    assert (completed != given).any(2)[inside].mean() > 0.9
    assert (completed[~inside] == given[~inside]).all()
    assert read(tmp_path / "out" / "photo-side.png").shape == (37, 150, 3)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["pictures"][0]["hidden"] == pytest.approx(inside.mean())
    assert 0 < report["means"]["psnr"] < 100
    assert "psnr" in done.output


def test_masks_of_a_folder_go_by_name_and_what_does_not_fit_is_recorded(trained, tmp_path):
    for number in range(4):
        picture(tmp_path / "in" / f"{number}.png", seed=number)
    (tmp_path / "in" / "5.png").write_bytes(b"torn")
    for number, size in ((0, (50, 37)), (1, (50, 37)), (2, (37, 50))):
        mask = Image.new("L", size)
        mask.paste(255, (number, 0, number + 20, 20))
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{number}.png")
    done = invoke(trained, tmp_path / "in", "--mask", tmp_path / "masks", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    for number in (0, 1):
        changed = (read(tmp_path / "out" / f"{number}.png") != read(tmp_path / "in" / f"{number}.png")).any(2)
        assert changed[:20, number : number + 20].mean() > 0.9
        assert changed.sum() <= 400
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [line["name"] for line in rejected] == ["2.png", "3.png", "5.png"]
    assert "37×50 pixels, the picture 50×37" in rejected[0]["reason"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "0-side.png",
        "0.png",
        "1-side.png",
        "1.png",
    ]


def test_subfolders_are_read_and_their_pictures_go_to_subfolders(trained, tmp_path):
    inside, names = tmp_path / "in", ("1.png", "cats/1.png", "cats/deep/1.png", "dogs/1.png")
    for seed, name in enumerate(names):
        picture(inside / name, seed=seed)
        mask = Image.new("L", (50, 37))
        mask.paste(255, (10 * seed, 0, 10 * seed + 10, 20))
        (inside / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        mask.save(inside / "masks" / name)
    words = (trained, inside, "--mask", inside / "masks", "--truth", inside, "--out", inside / "out")
    for leftover in ("never finished.png", "cats/.tmp-1-1.png"):  # of a run that was killed
        picture(inside / "out" / leftover)
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    report = json.loads((inside / "out" / "report.json").read_text())
    assert [line["name"] for line in report["pictures"]] == list(names)
    assert not (inside / "out" / "cats" / ".tmp-1-1.png").exists()
    for seed, name in enumerate(names):
        changed = (read(inside / "out" / name) != read(inside / name)).any(2)
        assert changed[:20, 10 * seed : 10 * seed + 10].mean() > 0.9
        assert changed.sum() <= 200
    assert invoke(*words).exit_code == 0  # what lies in --out is not read


def test_a_colour_is_what_is_hidden(trained, tmp_path):
    file = picture(tmp_path / "photo.png")
    values = read(file).copy()
    values[5:15, 5:25] = (0, 250, 10)
    Image.fromarray(values).save(file)
    assert invoke(trained, file, "--color-key", "00ff00:12", "--out", tmp_path / "out").exit_code == 0
    changed = (read(tmp_path / "out" / "photo.png") != values).any(2)
    assert changed[5:15, 5:25].mean() > 0.9
    assert changed.sum() <= 200 + 3  # a pixel of noise may have that colour


def test_the_gate_finds_what_is_hidden(trained, tmp_path):
    file = picture(tmp_path / "photo.png")
    assert invoke(trained, file, "--gate", "--out", tmp_path / "out").exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0.05 <= report["pictures"][0]["hidden"] <= 0.5


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_pictures_of_all_modes(trained, tmp_path, mode):
    file = picture(tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png"), width=33, height=17, mode=mode)
    assert invoke(trained, file, "--box", "0,0,0.5,0.5", "--out", tmp_path / "out").exit_code == 0
    assert read(tmp_path / "out" / "photo.png").shape == (17, 33, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing says what is occluded"),
        (("--box", "0.5,0,0.2,1"), "x0 < x1"),
        (("--box", "1,2"), "give x0,y0,x1,y1"),
        (("--color-key", "green"), "give RRGGBB"),
        (("--mask", "nowhere.png"), "nowhere.png does not exist"),
        (("--box", "0,0,1,1", "--truth", "nowhere"), "--truth nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(trained, tmp_path, arguments, message):
    done = invoke(trained, picture(tmp_path / "photo.png"), *arguments, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_or_no_picture(trained, tmp_path):
    file = picture(tmp_path / "photo.png")
    for arguments, message in (
        ((tmp_path, file), "holds no checkpoint"),
        ((trained, tmp_path / "none.png"), "does not exist"),
        ((trained, tmp_path / "empty"), "holds no pictures"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        done = invoke(*arguments, "--box", "0,0,1,1", "--out", tmp_path / "out")
        assert done.exit_code == 2
        assert message in done.output.replace("\n", " ")
    (tmp_path / "torn.png").write_bytes(b"torn")
    done = invoke(trained, tmp_path / "torn.png", "--box", "0,0,1,1", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "not an image" in done.output


def test_options_are_read(tmp_path):
    assert parse_box("0,0.25,1,0.5") == (0.0, 0.25, 1.0, 0.5)
    assert parse_color("#ff8000:7") == ((255, 128, 0), 7)
    with pytest.raises(ValueError, match="tolerance from 0 to 255"):
        parse_color("ff8000:256")
    with pytest.raises(ValueError, match="fractions"):
        ReconstructOptions(tmp_path, "x.png", tmp_path, box=("0,0,2,1",))
