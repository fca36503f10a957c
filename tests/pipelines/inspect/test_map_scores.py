import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score, roc_auc_score

from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.build.remade_maps import Remaker
from pipelines.errors import UserError
from pipelines.inspect.map_scores import evenly_spaced, score_arrays, score_maps, source_of_maps
from pipelines.inspect.map_verdict import CENTRE, FIGURES, MAPS, SHUFFLED, UNIFORM, Estimate
from pipelines.sources.open_source import open_source
from saliency.quality import THRESHOLDS
from saliency.table.table import SaliencyTable


def objects(count, shape=(24, 32), seed=0):
    """Masks of boxes anywhere, and maps [n, 6, 8] that are high where the mask is."""
    rng = np.random.default_rng(seed)
    masks, maps = np.zeros((count, *shape), bool), np.zeros((count, 6, 8), np.float32)
    for mask, values in zip(masks, maps, strict=True):
        top, left = rng.integers(0, 5), rng.integers(0, 7)
        mask[4 * top : 4 * top + 8, 4 * left : 4 * left + 8] = True
        values[top : top + 2, left : left + 2] = 1
    return masks, maps


def write_objects(folder, count, captions=None, size=(40, 30)):
    """Pictures with masks; ``captions`` holds several for each."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)).save(folder / f"{i}.png")
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[5:15, 3 * i : 3 * i + 10] = 255
        Image.fromarray(mask).save(folder / f"{i}-mask.png")
        line = {"file_name": f"{i}.png", "mask_file_name": f"{i}-mask.png"}
        lines.append(json.dumps(line | {"caption": captions[i] if captions else f"object {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def build(source, out, clip, **options):
    build_saliency(BuildOptions(str(source), out, clip=clip, **options), quiet=True)
    return out


# ---- arrays


def test_means_are_those_of_independent_code():
    masks, maps = objects(7)
    rng = np.random.default_rng(1)
    maps += rng.random(maps.shape).astype(np.float32)
    found = score_arrays(maps, masks)
    size = masks.shape[1:]
    laid = torch.nn.functional.interpolate(torch.tensor(maps)[:, None], size=size, mode="bilinear")[:, 0].numpy()
    pairs = list(zip(laid, masks, strict=True))
    expected = {
        "pointing": np.mean([mask.ravel()[pixels.argmax()] for pixels, mask in pairs]),
        "energy": np.mean([(pixels * mask).sum() / pixels.sum() for pixels, mask in pairs]),
        "auc": np.mean([roc_auc_score(mask.ravel(), pixels.ravel()) for pixels, mask in pairs]),
    }
    ious = [
        np.mean([jaccard_score(mask.ravel(), (pixels >= t * pixels.max()).ravel()) for pixels, mask in pairs])
        for t in THRESHOLDS
    ]
    for name, value in expected.items():
        assert found.figures[MAPS][name].mean == pytest.approx(value, abs=1e-6), name
    assert found.figures[MAPS]["iou"].mean == pytest.approx(max(ious), abs=0.01)
    assert found.thresholds[MAPS] == pytest.approx(THRESHOLDS[np.argmax(ious)], abs=0.011)
    share = np.mean([mask.mean() for mask in masks])
    for name in FIGURES:
        uniform = found.figures[UNIFORM][name]
        assert uniform.mean == pytest.approx(0.5 if name == "auc" else share)
        difference = found.figures[MAPS][name].mean - uniform.mean
        assert found.differences[UNIFORM][name].mean == pytest.approx(difference)


def test_maps_of_the_objects_beat_the_centre_and_maps_of_anything_do_not():
    masks, maps = objects(40)
    good = score_arrays(maps, masks, shuffled=np.roll(maps, 1, axis=0))
    assert all(good.beats(name) and good.beats(name, SHUFFLED) for name in FIGURES)
    assert good.verdict() == "The maps beat the centre prior in every figure. They follow the caption in every figure."
    bad = score_arrays(np.roll(maps, 1, axis=0), masks, shuffled=maps)
    assert not any(bad.beats(name) for name in FIGURES)
    assert bad.verdict().startswith("Whether the maps beat the centre prior is undecided in every figure. They do not ")
    assert "They do not follow the caption: worse than a shuffled caption in pointing, energy, IoU" in bad.verdict()
    same = score_arrays(maps, masks, shuffled=maps)
    assert "Whether they follow the caption is undecided in every figure." in same.verdict()


def test_a_map_is_judged_where_it_lies():
    """The same cells are right or wrong by the part of the image they cover."""
    masks, maps = objects(20)
    right = score_arrays(maps, masks)
    wide = np.zeros((20, 24, 64), bool)
    wide[:, :, 16:48] = masks
    box = np.tile(np.float32([0.25, 0, 0.75, 1]), (20, 1))
    placed = score_arrays(maps, wide, boxes=box, shuffled=maps)
    assert placed.figures[SHUFFLED] == placed.figures[MAPS]
    for name in ("pointing", "energy"):
        assert placed.figures[MAPS][name].mean == pytest.approx(right.figures[MAPS][name].mean, abs=1e-6)
    assert score_arrays(maps, wide).figures[MAPS]["pointing"].mean < 0.5


def test_maps_without_a_mask_count_only_where_none_is_needed():
    masks, maps = objects(5)
    maps[3] = 0
    found = score_arrays(maps, [masks[0], None, np.zeros_like(masks[2]), masks[3], masks[4]])
    assert (found.seen, found.judged, found.images) == (5, 3, 3)
    assert found.statistics["degenerate"].mean == pytest.approx(0.2)
    assert found.kinds == pytest.approx({"empty": 0.2, "flat": 0, "one cell": 0})
    assert found.per_pair.pairs.tolist() == [0, 3, 4]
    assert found.per_pair.energy[1] == pytest.approx(masks[3].mean())
    without = score_arrays(maps)
    assert without.statistics == found.statistics
    assert (without.judged, without.table()) == (0, [])
    assert not without.beats("pointing")
    assert "it is not known whether" in without.verdict()


def test_masks_are_held_one_at_a_time():
    masks, maps = objects(12)
    alive, most = weakref.WeakSet(), []

    class Counted(np.ndarray):
        __hash__ = object.__hash__

    def read():
        for mask in masks:
            one = mask.copy().view(Counted)
            alive.add(one)
            most.append(len(alive))
            yield one

    assert score_arrays(maps, read()).judged == 12
    assert max(most) <= 2


def test_another_number_of_masks_than_maps_is_an_error():
    masks, maps = objects(4)
    for wrong in (masks[:3], np.concatenate([masks, masks])):
        with pytest.raises(ValueError, match="argument"):
            score_arrays(maps, wrong)


def test_one_image_decides_nothing_and_json_holds_no_nan():
    masks, maps = objects(1)
    maps, masks = np.repeat(maps, 3, axis=0), np.repeat(masks, 3, axis=0)
    found = score_arrays(maps, masks, images=np.zeros(3, np.int64))
    assert (found.judged, found.images) == (3, 1)
    assert not any(found.beats(name) for name in FIGURES)
    numbers = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert numbers["figures"]["maps"]["pointing"] == {"mean": 1.0, "low": None, "high": None}
    assert numbers["beats_centre_prior"] == dict.fromkeys(FIGURES, False)
    assert "per_pair" not in numbers
    assert str(Estimate(0.5, float("nan"), float("nan"))) == "0.500"


def test_no_maps_at_all():
    found = score_arrays(np.zeros((0, 4, 4), np.float32))
    assert (found.seen, found.statistics, found.figures) == (0, {}, {})
    json.dumps(found.to_json(), allow_nan=False)


def test_evenly_spaced():
    assert evenly_spaced(np.arange(10), 20).tolist() == list(range(10))
    assert evenly_spaced(np.arange(100, 200), 4).tolist() == [100, 125, 150, 175]
    assert len(set(evenly_spaced(np.arange(7), 5).tolist())) == 5


# ---- folders


@pytest.mark.parametrize(
    "options",
    [{}, {"fit": "crop"}, {"grid": 6}, {"grid": 3}, {"tiles": 2}, {"clip_size": 48}, {"precision": "bf16"}],
    ids=str,
)
def test_under_its_own_caption_an_image_gives_the_map_in_the_table(tmp_path, tiny_clip, options):
    source = open_source(str(write_objects(tmp_path / "pictures", 5)))
    table = SaliencyTable(build(tmp_path / "pictures", tmp_path / "maps", tiny_clip, **options))
    remaker = Remaker(table)
    made = remaker.maps([remaker.look(source.read_image(i)) for i in range(5)], source.captions.to_pylist())
    known = table.raw_maps(np.arange(5))
    step = known.max(axis=(1, 2), keepdims=True) / 255
    assert (np.abs(made - known) <= 1.01 * step).all()
    other = remaker.maps([remaker.look(source.read_image(0))], ["something else"])
    assert np.abs(other - known[:1]).max() > 5 * step[0]


def test_a_table_of_an_earlier_release_is_judged(tmp_path, tiny_clip):
    write_objects(tmp_path / "pictures", 3)
    table = SaliencyTable(build(tmp_path / "pictures", tmp_path / "maps", tiny_clip))
    del table.metadata["tiles"], table.metadata["precision"]
    assert score_maps(table).no_shuffle is None


def test_a_folder_with_masks(tmp_path, tiny_clip):
    write_objects(tmp_path / "pictures", 6)
    found = score_maps(build(tmp_path / "pictures", tmp_path / "maps", tiny_clip))
    assert (found.seen, found.judged, found.images, found.no_shuffle) == (6, 6, 6, None)
    assert list(found.figures) == [MAPS, CENTRE, SHUFFLED, UNIFORM]
    assert 0 < found.statistics["caption_sensitivity"].mean <= 2
    assert score_maps(tmp_path / "maps", limit=2).seen == 2
    assert score_maps(tmp_path / "maps") == found


def test_batches_do_not_matter(tmp_path, tiny_clip, monkeypatch):
    write_objects(tmp_path / "pictures", 5)
    maps = build(tmp_path / "pictures", tmp_path / "maps", tiny_clip)
    whole = score_maps(maps)
    monkeypatch.setattr("pipelines.inspect.map_scores.BATCH", 2)
    parts = score_maps(maps)
    assert parts.figures[MAPS] == whole.figures[MAPS]
    assert parts.figures[SHUFFLED]["energy"].mean == pytest.approx(whole.figures[SHUFFLED]["energy"].mean, abs=0.01)


def test_several_captions_of_an_image_are_one_image(tmp_path, tiny_clip):
    pictures = tmp_path / "pictures"
    write_objects(pictures, 3, captions=[["a dog", "one dog"], ["a cat", "one cat"], ["a bird", "one bird"]])
    found = score_maps(build(pictures, tmp_path / "maps", tiny_clip, captions="all"))
    assert (found.judged, found.images) == (6, 3)


def test_what_cannot_be_read_is_passed_over_and_said(tmp_path, tiny_clip):
    pictures = write_objects(tmp_path / "pictures", 5)
    maps = build(pictures, tmp_path / "maps", tiny_clip)
    (pictures / "1.png").write_bytes(b"broken")
    (pictures / "3-mask.png").write_bytes(b"broken")
    found = score_maps(maps)
    assert (found.seen, found.judged) == (4, 3)
    assert [key for key, _ in found.skipped] == ["1.png", "3.png"]
    assert found.skipped[1][1].startswith("its mask: ")
    assert found.facts()["passed over"].startswith("2 pairs, first: 1.png: ")
    assert found.to_json()["skipped"]["pairs"] == 2


def test_one_caption_in_all_is_no_control(tmp_path, tiny_clip):
    pictures = write_objects(tmp_path / "pictures", 3, captions=["the same"] * 3)
    found = score_maps(build(pictures, tmp_path / "maps", tiny_clip))
    assert found.no_shuffle == "there is one caption in all"
    assert SHUFFLED not in found.figures
    assert "—" in found.table()[3]
    assert "unknown: there is one caption in all" in found.verdict()


def test_weights_that_changed_are_not_judged_with(tmp_path, tiny_clip):
    write_objects(tmp_path / "pictures", 3)
    table = SaliencyTable(build(tmp_path / "pictures", tmp_path / "maps", tiny_clip))
    table.metadata["weights_sha256"] = "0"
    found = score_maps(table)
    assert "not those the maps were made with" in found.no_shuffle
    assert found.judged == 3
    table.metadata["method"] = "unheard of"
    assert "unheard of" in score_maps(table).no_shuffle


def test_maps_whose_images_are_gone(tmp_path, tiny_clip):
    pictures = write_objects(tmp_path / "pictures", 4)
    maps = build(pictures, tmp_path / "maps", tiny_clip)
    with_images = score_maps(maps)
    pictures.rename(tmp_path / "moved")
    assert source_of_maps(SaliencyTable(maps)) is None
    found = score_maps(maps)
    assert (found.seen, found.judged) == (4, 0)
    assert found.statistics["entropy"] == with_images.statistics["entropy"]
    assert found.no_shuffle == "the images are not at hand"
    assert score_maps(maps, open_source(str(tmp_path / "moved"))) == with_images
    with pytest.raises(UserError, match="of another source"):
        score_maps(maps, open_source("shapes:3"))
    with pytest.raises(UserError, match="holds no saliency maps"):
        score_maps(tmp_path)
