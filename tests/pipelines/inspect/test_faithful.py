import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.errors import UserError
from pipelines.inspect.faithful import FaithTally, Records, SwapTally, mask_on_grid, score_faithfulness, swap_figures
from pipelines.inspect.faithful_verdict import (
    ABSENT,
    FIGURES,
    INVERTED,
    ORACLE,
    OWN,
    PRESENT,
    RANDOM,
    ROWS,
    FaithScores,
    SwapScores,
    print_faithfulness,
)
from pipelines.inspect.inspect import inspect
from pipelines.inspect.map_verdict import CENTRE, MAPS, UNIFORM, Estimate
from pipelines.inspect.options import InspectOptions
from pipelines.sources.open_source import open_source
from saliency.maps import FULL
from saliency.table.table import SaliencyTable
from tests.pipelines.inspect.test_inspect_maps import run
from tests.pipelines.inspect.test_map_scores import build, write_objects


@pytest.fixture(scope="module")
def scene_maps(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "maps"
    build_saliency(BuildOptions("shapes:8,split=unseen,objects=2-3", out), quiet=True)
    return out


# ---- the whole


def test_maps_of_the_shipped_clip_are_true_to_it(scene_maps, tmp_path):
    """One run of the command: figures, picture, numbers and words."""
    few = ("--faithful-limit", 5, "--limit", 1, "--gallery-size", 1)
    result = run(scene_maps, "--faithful", *few, "--gallery", tmp_path / "g.png", "--json", tmp_path / "j.json")
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "j.json").read_text())
    found = numbers["faithfulness"]
    assert (found["pairs"], found["images"], list(found["figures"])) == (5, 5, list(ROWS))
    better = {name: -1 if name.startswith("deletion") else 1 for name in FIGURES}
    for name, sign in better.items():
        means = {row: sign * figures[name]["mean"] for row, figures in found["figures"].items()}
        assert min(means[MAPS], means[ORACLE]) > max(means[CENTRE], means[RANDOM], means[UNIFORM]), name
        assert min(means[CENTRE], means[RANDOM], means[UNIFORM]) > means[INVERTED], name
    assert found["figures"][UNIFORM]["saco"] == {"mean": 0, "low": 0, "high": 0}
    curves = found["curves"][MAPS]
    assert curves["insertion_mean"][-1] == curves["deletion_mean"][0] == curves["deletion_blurred"][0]
    assert len(curves["insertion_mean"]) == 11
    difference = found["evidence"]["mean"]["mean"]
    assert difference == pytest.approx(curves["deletion_mean"][0] - curves["deletion_mean"][-1])
    assert difference > 0.3
    swaps = found["swaps"]
    assert (swaps["pairs"], swaps["with_present"], swaps["known"]) == (5, 5, True)
    assert swaps["effects"]["moved"]["low"] > 0.1
    assert swaps["effects"]["left"]["high"] < -0.1
    assert swaps["effects"]["fading"]["mean"] > 0
    cosines = {row: figures["cosine"]["mean"] for row, figures in swaps["figures"].items()}
    assert min(cosines[OWN], cosines[PRESENT]) > cosines[ABSENT] + 0.2
    with Image.open(tmp_path / "g-faithful.png") as picture:
        assert min(picture.size) > 600
    assert numbers["facts"]["curves"] == str(tmp_path / "g-faithful.png")
    lines = result.stdout.splitlines()
    for start in ("maps", "oracle", "centre prior", "random", "uniform", "inverted", "maps − centre", "maps − random"):
        (row,) = [line for line in lines if line[:14].strip() == start and line.count("±") == 5]
        assert len(row) <= 80
    words = " ".join(result.stdout.split())
    assert "The maps beat a random map in every figure." in words
    assert "When the caption names another object of the image, the map moves to it (+0." in words


def test_a_source_without_masks_has_no_oracle_and_swaps_captions_of_its_own(tmp_path, tiny_clip, capsys):
    pictures = write_objects(tmp_path / "pictures", 5)
    (pictures / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{i}.png", "caption": f"object {i}"}) + "\n" for i in range(5))
    )
    for mask in pictures.glob("*-mask.png"):
        mask.unlink()
    table = SaliencyTable(build(pictures, tmp_path / "maps", tiny_clip, fit="crop"))
    source = open_source(str(pictures))
    (pictures / "2.png").write_bytes(b"broken")
    found = score_faithfulness(table, source, limit=4)
    assert (found.pairs, [key for key, _ in found.skipped]) == (3, ["2.png"])
    assert list(found.figures) == [row for row in ROWS if row != ORACLE]
    assert (found.swaps.pairs, found.swaps.with_present, found.swaps.known) == (3, 0, False)
    assert list(found.swaps.figures) == [OWN, ABSENT]
    assert found.swaps.table()[0] == ["", "peak", "cos"]
    assert set(found.swaps.effects) == {"fading", "weaker"}
    assert found.swaps.verdict().startswith("When the caption names what another image shows, the map ")
    assert found == score_faithfulness(table, source, limit=4)
    random = score_faithfulness(table, source, limit=4, seed=1).curves[RANDOM, "insertion_mean"]
    assert random != found.curves[RANDOM, "insertion_mean"]
    json.dumps(found.to_json(), allow_nan=False)
    print_faithfulness(found)
    assert "Passed over: 1 pairs, first: 2.png: " in capsys.readouterr().out


def test_one_caption_in_all_is_not_swapped(tmp_path, tiny_clip):
    pictures = write_objects(tmp_path / "pictures", 2, captions=["the same"] * 2)
    maps = build(pictures, tmp_path / "maps", tiny_clip)
    result = run(maps, "--faithful")
    assert "No caption could be swapped: there is one caption in all." in result.stdout
    assert ORACLE in inspect(InspectOptions(str(maps), faithful=True)).faithfulness.figures


def test_what_it_needs_is_said_in_one_line(tmp_path, tiny_clip, scene_maps):
    pictures = write_objects(tmp_path / "pictures", 2)
    maps = build(pictures, tmp_path / "maps", tiny_clip)
    table = SaliencyTable(maps)
    table.metadata["weights_sha256"] = "0"
    with pytest.raises(UserError, match="--faithful needs the CLIP that made the maps: the weights of"):
        score_faithfulness(table, open_source(str(pictures)))
    pictures.rename(tmp_path / "moved")
    for arguments, message in (
        ((maps, "--faithful"), "--faithful needs the images of"),
        (("shapes:3", "--faithful"), "--faithful has no effect with shapes:3"),
        ((scene_maps, "--faithful-limit", 3), "--faithful-limit has no effect without --faithful"),
    ):
        result = run(*arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert message in result.stderr


# ---- the parts


def test_a_mask_on_the_grid_of_its_map():
    mask = np.zeros((4, 8), bool)
    mask[:2, 2:5] = True
    assert mask_on_grid(mask, (2, 2), FULL).tolist() == [[0.5, 0.25], [0, 0]]
    assert mask_on_grid(mask, (2, 2), (0.25, 0, 0.75, 1)).tolist() == [[1, 0.5], [0, 0]]


def test_swapped_maps_written_out():
    named, other = np.zeros((2, 4, 4), bool)
    named[:2, :2], other[2:, 2:] = True, True

    def corner(top, bottom):
        return np.repeat(np.repeat(np.float32([[top, 0], [0, bottom]]), 2, 0), 2, 1)

    maps = {OWN: corner(0.6, 0.2), PRESENT: corner(0.1, 0.3), ABSENT: corner(0.2, 0.2)}
    found = swap_figures(maps, {OWN: 0.5, PRESENT: 0.4, ABSENT: 0.1}, FULL, named, other)
    assert found[OWN, "on_named"] == pytest.approx(0.75)
    assert found[PRESENT, "on_other"] == pytest.approx(0.75)
    assert found[ABSENT, "cosine"] == 0.1
    tally = SwapTally()
    tally.add(0, found)
    without = {OWN: np.zeros((4, 4), np.float32), ABSENT: np.zeros((4, 4), np.float32)}
    tally.add(1, swap_figures(without, {OWN: 0.3, ABSENT: 0.2}, FULL, None, None))
    scores = tally.scores(known=True)
    assert (scores.pairs, scores.with_present) == (2, 1)
    assert scores.effects["moved"].mean == pytest.approx(0.75 - 0.25)
    assert scores.effects["left"].mean == pytest.approx(0.25 - 0.75)
    assert scores.effects["fading"].mean == pytest.approx((0.6 - 0.2) / (0.6 + 0.2))  # both empty: not counted
    assert scores.effects["weaker"].mean == pytest.approx((1 + 0.5) / 2)
    assert scores.figures[OWN]["peak"].mean == pytest.approx(1)
    assert scores.figures[ABSENT]["peak"].mean == pytest.approx((0.2 / 0.3 + 0) / 2)
    assert SwapTally().scores(known=True) is None


def test_means_are_over_the_pairs_that_have_a_figure():
    records = Records()
    for image, values in ((0, {"a": 1.0, "b": 5.0}), (0, {"a": 2.0}), (1, {"a": 6.0})):
        records.add(image, values)
    found = records.estimates({name: records.column(name) for name in ("a", "b", "c")})
    assert set(found) == {"a", "b"}
    assert (found["a"].mean, found["b"].mean) == (3, 5)
    assert (found["a"].low, found["a"].high) == (1.5, 6)  # two images are drawn, not three pairs
    assert np.isnan(found["b"].low)


def test_words_follow_the_intervals():
    up, down, unclear = Estimate(0.2, 0.1, 0.3), Estimate(-0.2, -0.3, -0.1), Estimate(0.1, -0.1, 0.3)
    good = {name: down if name.startswith("deletion") else up for name in FIGURES}
    bad = {name: up if name.startswith("deletion") else down for name in FIGURES}
    scores = FaithScores(9, 9, {MAPS: good}, {RANDOM: good, CENTRE: bad | {"saco": unclear}}, {})
    assert scores.verdict() == (
        "The maps beat a random map in every figure. They do not beat the centre prior: worse than the centre prior in "
        "insertion (blurred), deletion (blurred), insertion (mean) and deletion (mean); undecided in SaCo."
    )
    doubted = replace(scores, evidence={"blurred": up, "mean": unclear}).verdict()
    assert doubted.removeprefix(scores.verdict()) == (
        " With the mean baseline the curves mean little: cos(image, caption) is not above that of the baseline "
        "(+0.100 ± 0.200)."
    )
    assert FaithTally().scores(None, [], 0).verdict() == "No pair could be measured."
    swaps = SwapScores(9, 4, True, {}, {"moved": down, "fading": unclear, "weaker": Estimate(0.5, 0.4, 0.6)})
    assert "the map moves away from it (-0.200 ± 0.100). When it names one that is not there" in swaps.verdict()
    assert "the map neither fades nor grows for certain (+0.100 ± 0.200; its peak is lower for 50%" in swaps.verdict()
