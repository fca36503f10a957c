import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import load_model
from mae.training.training import Training
from pipelines.compare import jobs as compare_jobs
from pipelines.compare.compare import compare, dry_run
from pipelines.compare.plan import UNTRAINED, plan_from
from pipelines.compare.statistics import mean_interval, percent
from pipelines.compare.unit import units_of
from pipelines.errors import UserError
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import open_source
from tests.pipelines.compare.comparisons import NANO_SETTINGS, PROBES, run
from tests.pipelines.pretraining import SOURCE, invoke
from tests.tiny_mae import NANO, write_maps

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.usefixtures("nano")


def config_of(out, arm, seed):
    return RunFolder(out / "runs" / arm / f"seed-{seed}").config()


def test_a_comparison(content, out):
    found = run(content, out)
    assert (len(found.finished), found.failed) == (4, [])
    files = {"report.md", "report.html", "results.json"}
    assert {path.name for path in out.iterdir()} == {"runs", "records", "plots", *files}
    plots = {path.name for path in (out / "plots").iterdir()}
    assert plots == {"differences.png", "accuracy.png", "loss.png", "masks.png"}
    assert config_of(out, "image", 3)["options"]["seed"] == 3
    assert config_of(out, "random", 0)["options"]["saliency"] is None
    assert config_of(out, "image", 0)["masking"]["salient_ratio"] == 0.5
    results = json.loads((out / "results.json").read_text())
    assert results["failed"] == []
    for row in results["runs"]:
        own = json.loads((out / "runs" / row["arm"] / f"seed-{row['seed']}" / "evaluation.json").read_text())
        assert own["rows"][0]["knn"] == results["accuracy"]["knn"][row["arm"]][str(row["seed"])]
        assert own["rows"][-1]["knn"] == results["accuracy"]["knn"][UNTRAINED][str(row["seed"])]
    difference = results["differences"]["knn"]["image"]
    accuracy = results["accuracy"]["knn"]
    assert difference["by_seed"] == {s: accuracy["image"][s] - accuracy["random"][s] for s in ("0", "3")}


def test_the_report(content, out):
    found = run(content | {"power": 5, "margin": 40}, out)
    report = (out / "report.md").read_text()
    for text in (
        "4 of 4 runs are finished (2 arms × 2 seeds: 0, 3)",
        "| arm | seeds | knn % | − random | adjusted p | p of equality within 40 | reading |",
        "| knn: arm | deviation | to see 5 | for other images | equal within 40 |",
        "| image | salient, 0.5 of image, top, 0.75 hidden |",
        "Holm's method for the 1 arms",
        "24 images, 6 steps",
        f"trained on 22 images of `{PROBES}`, tested on 8 of 20% of {PROBES} held out",
        "same weights and see the same views",
    ):
        assert text in report
    assert "near-duplicate" not in report  # scenes are drawn
    for record in out.glob("records/*/*.json"):
        told = json.loads(record.read_text())
        told["result"]["leaks"] = {"train": {"images": 8, "compared": 8, "found": 1, "examples": [["a", "b"]]}}
        record.write_text(json.dumps(told))
    run(content | {"power": 5, "margin": 40}, out)
    line = "- seed 0, 3: 1 of 8 test images has a near-duplicate among the training images: a is b."
    assert line in (out / "report.md").read_text().splitlines()
    mean = found.means["knn"]["image"]
    assert f"| image | 2 | {100 * mean.mean:.1f} ± {100 * mean.half_width:.1f} |" in report
    rows = {(o.unit.arm, o.unit.seed): o.record["result"]["rows"] for o in found.finished}
    top5 = mean_interval([rows["random", seed][0]["knn_top5"] for seed in (0, 3)])
    gains = [rows["image", seed][0]["knn_top5"] - rows["random", seed][0]["knn_top5"] for seed in (0, 3)]
    section = report.partition("## Top-5 accuracy")[2].partition("##")[0]
    assert top5.mean > found.means["knn"]["random"].mean
    assert f"| random | {percent(top5)} |" in section
    assert f"| {percent(mean_interval(gains), sign=True)} |" in section
    assert "| untrained |" in section
    for line in report.splitlines():
        if line.startswith("!["):
            assert (out / line.partition("(")[2].rstrip(")")).exists()


def test_learning_curves(content, out, trainings):
    """Runs on fewer images take as many steps; a share of the labels judges the same weights again."""
    plan = {"seeds": 1, "limits": [8], "label_fractions": ["50 %"], "evaluate": content["evaluate"] | {"pool": "mean"}}
    found = run(content | plan, out)
    runs = {(o.unit.arm, o.unit.limit): o.record for o in (*found.finished, *found.limited)}
    assert set(runs) == {(arm, limit) for arm in ("random", "image") for limit in (None, 8)}
    few = RunFolder(out / "runs" / "image" / "seed-0-images-8").config()
    assert (few["images"], few["steps"], few["options"]["epochs"]) == (8, 6, 6)
    assert config_of(out, "image", 0)["steps"] == 6
    whole, half = (judged["result"] for judged in (runs["image", None],
                   runs["image", None]["label_fractions"]["0.5"]))  # fmt: skip
    assert (whole["train_images"], half["train_images"], half["label_fraction"]) == (22, 8, 0.5)
    by_images, by_labels = found.curves["images"]["knn"], found.curves["labels"]["knn"]
    assert [point.place for point in by_images] == [8, 24]
    assert [point.place for point in by_labels] == [0.5, 1]
    assert by_labels[0].means["image"].mean == half["rows"][0]["knn"]
    assert by_images[0].means["image"].mean == runs["image", 8]["result"]["rows"][0]["knn"]
    assert by_images[1].means == by_labels[1].means == found.means["knn"]
    report = (out / "report.md").read_text()
    assert "4 of 4 runs are finished (2 arms × 2 numbers of images × 1 seed: 0)" in report
    assert "| knn % by pretraining images | 8 | 24 |" in report
    assert "| knn − random | 50 % | 100 % |" in report
    assert (out / "plots" / "curves.png").exists()
    assert json.loads((out / "results.json").read_text())["curves"]["labels"]["knn"][0]["place"] == 0.5

    trainings.clear()
    run(content | plan, out)
    assert trainings == []
    run(content | plan | {"label_fractions": ["50 %", 0.25]}, out)
    assert trainings == [("evaluate", arm, "seed-0") for arm in ("random", "image")]  # of one share alone
    with pytest.raises(UserError, match="limits: 24 must be below the 24 images that there are"):
        run(content | plan | {"limits": [24]}, out)


def test_an_arm_with_images_of_its_own(content, out, trainings):
    """It learns from them for as long as its learning curve asks, and is judged on the images of all arms."""
    other = "shapes:40,size=32,radius=0.05"
    plan = {"seeds": 1, "limits": [8], "arms": {"random": None, "other": {"masking": "random", "source": other}}}
    found = run(content | {"saliency": None} | plan, out)
    assert found.failed == []
    sources = {arm: config_of(out, arm, 0)["options"]["source"] for arm in ("random", "other")}
    assert sources == {"random": SOURCE, "other": other}
    assert {arm: config_of(out, arm, 0)["images"] for arm in sources} == {"random": 24, "other": 40}
    few = [RunFolder(out / "runs" / arm / "seed-0-images-8").config() for arm in sources]
    assert [each["steps"] for each in few] == [6, 10]
    assert {o.record["result"]["source"] for o in found.finished} == {PROBES}
    assert f"| other | random, 0.75 hidden | masking random, source {other} |" in (out / "report.md").read_text()
    with pytest.raises(UserError, match="limits: 32 must be below the 24 images that there are"):
        run(content | {"saliency": None} | plan | {"limits": [32]}, out)


def test_one_seed_has_no_interval_and_says_so(content, out):
    run(content | {"seeds": 1}, out)
    report = (out / "report.md").read_text()
    assert "With one seed there is no interval" in report
    assert "too few seeds" in report
    table = report.partition("## By seed")[0]
    assert not any(" ± " in line for line in table.splitlines() if line.startswith("|"))


def test_arms_of_a_seed_share_weights_views_and_order(content, out, monkeypatch):
    seen, starts, masks = {}, {}, {}
    update, draw = Training.update, Training.draw_masks

    def noted(self, batches):
        arm = (self.masking.strategy, self.settings.seed)
        starts.setdefault(arm, {name: value.clone() for name, value in self.model.state_dict().items()})
        seen.setdefault(arm, []).extend(batch.images.clone() for batch in batches)
        return update(self, batches)

    def drawn(self, *given):
        mask = draw(self, *given)
        masks.setdefault((self.masking.strategy, self.settings.seed), []).append(mask.hidden)
        return mask

    monkeypatch.setattr(Training, "update", noted)
    monkeypatch.setattr(Training, "draw_masks", drawn)
    run(content, out)
    for seed in (0, 3):
        ours, theirs = seen["random", seed], seen["salient", seed]
        assert len(ours) == len(theirs) == 6
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        weights = starts["random", seed], starts["salient", seed]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(seen["random", 0][0], seen["random", 3][0])
    assert not torch.equal(
        starts["random", 0]["patch_embed.proj.weight"], starts["random", 3]["patch_embed.proj.weight"]
    )
    assert any(not torch.equal(a, b) for a, b in zip(masks["random", 0], masks["salient", 0], strict=True))
    torch.manual_seed(3)  # what evaluate shows as untrained
    untrained = MaskedAutoencoder(image_size=16, **NANO._asdict()).state_dict()
    assert all(torch.equal(untrained[name], starts["random", 3][name]) for name in untrained)


def test_what_is_finished_is_not_run_again(content, out, trainings):
    first = run(content, out)
    assert len(trainings) == 8
    trainings.clear()
    untouched = {p: p.stat().st_mtime_ns for p in (*(out / "runs").rglob("*"), *(out / "records").rglob("*"))}
    again = run(content, out)
    assert trainings == []
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert again.values == first.values


def test_more_seeds_and_arms_cost_only_themselves(content, out, trainings):
    run(content, out)
    trainings.clear()
    more = content | {"seeds": [0, 3, 5], "arms": content["arms"] | {"center": None}}
    found = run(more, out)
    assert [(arm, seed) for name, arm, seed in trainings if name == "pretrain"] == [
        ("center", "seed-0"),
        ("center", "seed-3"),
        ("random", "seed-5"),
        ("image", "seed-5"),
        ("center", "seed-5"),
    ]
    assert len(found.finished) == 9


def test_another_evaluation_trains_nothing_again(content, out, trainings):
    run(content, out)
    trainings.clear()
    found = run(content | {"evaluate": content["evaluate"] | {"neighbours": 3}}, out)
    assert {name for name, *_ in trainings} == {"evaluate"}
    assert len(trainings) == 4
    assert found.finished[0].record["pretrain_seconds"] is not None


def test_an_evaluation_of_other_weights_is_not_taken(content, out, trainings):
    run(content, out)
    trainings.clear()
    shutil.rmtree(out / "runs" / "image" / "seed-3")
    run(content, out)
    assert trainings == [("pretrain", "image", "seed-3"), ("evaluate", "image", "seed-3")]
    trainings.clear()
    newest = sorted((out / "runs" / "image" / "seed-3" / "checkpoints").glob("step-*"))[-1]
    (newest / "SHA256SUMS").unlink()  # as if the folder had been put there by hand
    run(content, out)
    assert trainings == [("evaluate", "image", "seed-3")]


@pytest.mark.parametrize("dry", [True, False])
def test_other_settings_are_refused_before_anything_runs(content, out, trainings, dry):
    run(content, out)
    trainings.clear()
    other = plan_from(content | {"pretrain": content["pretrain"] | {"epochs": 3}, "seeds": [9, 0]})
    with pytest.raises(UserError, match=r"random, seed 0: .*made with other settings \(epochs 2 → 3\)"):
        (dry_run if dry else compare)(other, out, device="cpu", workers=0)
    assert trainings == []


def test_other_images_are_refused(content, out, maps):
    run(content, out)
    write_maps(maps, open_source("shapes:26,size=32"))
    runs = out / "runs" / "random" / "seed-0" / "config.json"
    config = json.loads(runs.read_text())
    config["keys_sha256"] = "0" * 64
    runs.write_text(json.dumps(config))
    with pytest.raises(UserError, match="the images are not the ones"):
        run(content, out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "/no/such/place"}, "/no/such/place does not exist"),
        ({"saliency": "/no/such/maps"}, "arms: image: .*/no/such/maps"),
        ({"pretrain": NANO_SETTINGS | {"model": "vast"}}, "arms: random: --model 'vast'"),
        ({"pretrain": NANO_SETTINGS | {"image_size": 17}}, "arms: random: --image-size"),
        ({"pretrain": NANO_SETTINGS | {"batch_size": 99}}, "arms: random: .* has 24 images, fewer than one step"),
        ({"pretrain": NANO_SETTINGS | {"mask_ratio": 0.01}}, "--mask-ratio 0.01"),
        ({"evaluate": {"source": SOURCE, "test": "/no/such/place"}}, "/no/such/place does not exist"),
        ({"evaluate": {"protocols": ["guess"]}}, "evaluate: --protocol 'guess'"),
        ({"arms": {"random": None, "x": {"salient_ratio": 0.9}}}, "arms: x: --salient-ratio 0.9"),
    ],
)
def test_everything_is_checked_before_anything_runs(content, out, trainings, change, message):
    with pytest.raises(UserError, match=message):
        run(content | change, out)
    assert trainings == []
    assert not out.exists()


def test_images_without_labels_are_refused_before_anything_runs(content, out, tmp_path, trainings):
    from tests.pipelines.build.test_build_saliency import write_pictures

    pictures = write_pictures(tmp_path / "pairs", [f"picture {i}" for i in range(4)])
    with pytest.raises(UserError, match="has no labels"):
        run(content | {"evaluate": {"source": str(pictures)}}, out)
    assert trainings == []


def test_a_dry_run_writes_nothing(content, out):
    states = dry_run(plan_from(content), out, device="cpu", workers=0)
    assert [(unit.arm, unit.seed, state) for unit, state in states] == [
        ("random", 0, "new"),
        ("image", 0, "new"),
        ("random", 3, "new"),
        ("image", 3, "new"),
    ]
    assert not out.exists()


def test_an_arm_may_be_named_as_a_column_of_the_sheet(content, out, monkeypatch):
    from pipelines.compare import plots as compare_plots

    sheets = []
    monkeypatch.setattr(compare_plots, "contact_sheet", lambda path, columns, **_: sheets.append(columns))
    run(content | {"seeds": 1}, out)
    (columns,) = sheets
    assert list(columns) == ["the image", "the map", "random", "image"]
    shown = (columns["the image"][0] == columns["image"][0]).all(axis=2)
    assert shown.mean() == pytest.approx(0.25, abs=0.05)  # one of four patches is left to see


def test_a_folder_of_another_kind_is_refused(content, out):
    out.mkdir()
    (out / "x").write_text("x")
    with pytest.raises(UserError, match="holds no comparison"):
        run(content, out)


def test_the_command(content, out, tmp_path, maps):
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(content, sort_keys=False))
    usual = ("--out", out, "--device", "cpu", "--workers", 0)
    dry = invoke("compare", plan, *usual, "--seeds", "1", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "random, seed 0" in dry.stdout
    assert "new" in dry.stdout
    done = invoke("compare", plan, *usual, "--seeds", "1")
    assert done.exit_code == 0, done.output
    assert "[2/2] image, seed 0: knn" in done.stdout
    assert "too few seeds" in done.stdout
    again = invoke("compare", plan, *usual, "--seeds", "1")
    assert "2 of 2 runs are finished already" in again.stdout
    assert "[1/" not in again.stdout


def test_the_command_without_a_plan(out, maps):
    flags = ["--saliency", maps, "--arms", "random,salient", "--seeds", "2", "--labelled", PROBES, "--protocol", "knn"]
    words = [word for name, value in NANO_SETTINGS.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = invoke("compare", SOURCE, "--out", out, "--device", "cpu", "--workers", 0, *flags, "--", *words)
    assert done.exit_code == 0, done.output
    assert config_of(out, "salient", 1)["options"]["blr"] == 0.05


def test_the_command_with_a_failing_arm(content, out, tmp_path):
    content |= {"seeds": 1, "arms": {"random": None, "bad": {"blr": 1e30}}}
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(content, sort_keys=False))
    done = invoke("compare", plan, "--out", out, "--device", "cpu", "--workers", 0)
    assert done.exit_code == 2
    assert "bad, seed 0: FAILED: the" in done.stdout
    assert done.stderr == "error: 1 runs failed; the same command runs them again, and no others\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PLAN", "--saliency", "x"], "go into it"),
        (["PLAN", "--", "--epochs", "3"], "go into it"),
        (["PLAN", "--jobs", "0"], "--jobs is 0"),
        (["PLAN", "--arms", "x,random"], "'x' is not one of: random, image"),
        (["none.yaml"], "none.yaml can't be read"),
        ([SOURCE, "--", "--epoch", "3"], "unknown option 'epoch'; did you mean epochs"),
        ([SOURCE, "--seeds", "many"], "seeds: 'many' is not a number of seeds"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(content, out, tmp_path, arguments, message):
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(content, sort_keys=False))
    first, *rest = [str(plan) if argument == "PLAN" else argument for argument in arguments]
    done = invoke("compare", first, "--out", out, "--device", "cpu", *rest)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_run_of_a_comparison_is_a_run_like_any_other(content, out):
    run(content | {"seeds": 1}, out)
    folder = out / "runs" / "image" / "seed-0"
    assert load_model(folder).grid == (2, 2)
    looked = invoke("inspect", folder)
    assert looked.exit_code == 0, looked.output
    assert "6 of 6" in looked.stdout


def test_a_schedule_and_another_image_size_are_drawn(content, out):
    content |= {"seeds": 1}
    content["arms"] = {
        "random": None,
        "grows": {"salient_schedule": [0, 0.5]},
        "large": {"image_size": 32, "masking": "random"},
    }
    found = run(content, out)
    assert found.failed == []
    assert (out / "plots" / "masks.png").exists()
    assert "salient, 0:0.5 of image" in (out / "report.md").read_text()


def test_a_device_for_every_job(content, monkeypatch):
    unit = units_of(plan_from(content), Path("out"))[0]
    unit = replace(unit, pretrain=replace(unit.pretrain, device="cuda"), evaluate=replace(unit.evaluate, device="cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    placed = [compare_jobs._placed(unit, slot) for slot in range(3)]
    assert [u.pretrain.device for u in placed] == [u.evaluate.device for u in placed] == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert compare_jobs._placed(unit, 1).pretrain.device == "cuda"
