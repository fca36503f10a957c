import json
import shutil

import pytest

from pipelines.errors import UserError
from pipelines.evaluate.independent_maps import check_independent, training_record

MADE = {"clip": "ViT-B-16", "method": "gradcam", "weights_sha256": "ab", "grid": 14, "package_version": "1"}


def run_with(folder, saliency, maps=MADE):
    folder.mkdir(parents=True)
    config = {"options": {"saliency": saliency}, "maps": None if maps is None else maps | {"images_without_map": 3}}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("where", ["", "/checkpoints/best", "@keep=0.5"])
def test_the_maps_of_the_training_are_refused(tmp_path, where):
    run = run_with(tmp_path / "run", str(tmp_path / "maps"))
    with pytest.raises(UserError, match="was trained with these maps"):
        check_independent(str(tmp_path / "run" / ".." / "maps"), {}, [run + where])


def test_so_are_others_that_were_made_in_the_same_way(tmp_path):
    run = run_with(tmp_path / "run", "maps")
    with pytest.raises(UserError, match="made as the maps maps"):
        check_independent("elsewhere", MADE | {"package_version": "2"}, ["timm:x", run])


@pytest.mark.parametrize(
    "other", [{"method": "legrad"}, {"weights_sha256": "cd"}, {"clip": "RN50"}], ids=["method", "weights", "model"]
)
def test_maps_of_another_kind_are_independent(tmp_path, other):
    assert check_independent("elsewhere", MADE | other, [run_with(tmp_path / "run", "maps")]) == []


def test_a_run_without_maps_and_one_without_a_record(tmp_path):
    plain = run_with(tmp_path / "run", None, maps=None)
    assert check_independent("maps", MADE, [plain, "timm:resnet18"]) == ["timm:resnet18"]
    exported = tmp_path / "exported"
    exported.mkdir()
    shutil.copy(__file__, exported / "config.json")
    assert training_record(str(exported)) is None
