import numpy as np
import pytest

from pipelines.compare import unit as compare_runs
from pipelines.compare.compare import compare
from pipelines.compare.plan import UNTRAINED, plan_from
from pipelines.errors import UserError
from pipelines.import_maps.import_maps import import_maps
from pipelines.import_maps.options import ImportOptions
from pipelines.sources.open_source import open_source
from tests.pipelines.compare.comparisons import PROBES
from tests.pipelines.pretraining import SOURCE
from tests.tiny_mae import write_maps

NANO_SETTINGS = {"model": "nano", "image_size": 16, "batch_size": 8, "epochs": 1, "blr": 0.05, "warmup_epochs": 0.5}


pytestmark = pytest.mark.usefixtures("nano")


def content(maps, **judged):
    if "occlusion" in judged["protocols"]:
        judged = {"occlusion_shares": "0,0.5", **judged}
    return {
        "source": SOURCE,
        "saliency": str(maps),
        "seeds": [0],
        "pretrain": dict(NANO_SETTINGS),
        "evaluate": {"source": PROBES, **judged},
        "arms": {"random": None, "image": {"masking": "salient", "salient_ratio": 0.5}},
    }


def run(plan, out):
    return compare(plan_from(plan), out, device="cpu", workers=0, quiet=True)


def test_areas_and_ious_are_compared(tmp_path):
    maps = write_maps(tmp_path / "maps", open_source(SOURCE))
    judged = {"protocols": ["occlusion", "segment"], "occluder": ["random", "block"], "recover_images": 0}
    found = run(content(maps, **judged), tmp_path / "out")
    assert set(found.values) == {"occlusion", "segment"}
    for table in found.values.values():
        assert set(table) == {"random", "image", UNTRAINED}
        assert all(0 <= value <= 1 for by_seed in table.values() for value in by_seed.values())
    report = (tmp_path / "out" / "report.md").read_text()
    assert "*occlusion* is the area under the curve" in report
    assert "*segment* is the mean over classes" in report
    assert (tmp_path / "out" / "runs" / "image" / "seed-0" / "plots" / "occlusion.png").exists()


def test_masks_alone_need_no_labels(tmp_path):
    maps = write_maps(tmp_path / "maps", open_source(SOURCE))
    found = run(content(maps, protocols=["segment"], segment_classes=False), tmp_path / "out")
    assert set(found.values) == {"segment"}
    assert "largest class" not in (tmp_path / "out" / "report.md").read_text()


def test_an_arm_that_learns_with_the_occluders_maps_is_refused_before_anything_runs(tmp_path, monkeypatch):
    maps = write_maps(tmp_path / "maps", open_source(SOURCE))
    monkeypatch.setattr(compare_runs, "pretrain", lambda *_, **__: pytest.fail("nothing may run"))
    plan = content(maps, protocols=["occlusion"], occluder_maps=str(maps))
    with pytest.raises(UserError, match="arm image was trained with these maps"):
        run(plan, tmp_path / "out")
    twin = write_maps(tmp_path / "twin", open_source(PROBES), maps=np.ones((30, 4, 4)))
    with pytest.raises(UserError, match="made as the maps"):
        run(content(maps, protocols=["occlusion"], occluder_maps=str(twin)), tmp_path / "out")


@pytest.mark.parametrize("occluder", [[], ["random", "salient"]])
def test_an_arm_that_learns_with_true_masks_is_not_occluded_by_them(tmp_path, monkeypatch, occluder):
    import_maps(ImportOptions(SOURCE, "masks", tmp_path / "true"), quiet=True)
    monkeypatch.setattr(compare_runs, "pretrain", lambda *_, **__: pytest.fail("nothing may run"))
    with pytest.raises(UserError, match="arm image is trained with true masks"):
        run(content(tmp_path / "true", protocols=["occlusion"], occluder=occluder), tmp_path / "out")
