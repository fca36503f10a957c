"""The commands as functions: every option by its name, values as the command line takes them, results as objects."""

import inspect
import json
from dataclasses import MISSING
from pathlib import Path

import numpy as np
import pytest

import saliency_mae as sm
from pipelines.api.keywords import options_of, values_of
from pipelines.build.options import BuildOptions
from pipelines.commandline import machine
from pipelines.commandline.option import declared_options, given_values
from pipelines.compare.options import CompareOptions
from pipelines.diff.options import DiffOptions
from pipelines.evaluate.options import EvaluateOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.publish.options import PublishOptions
from pipelines.verify.options import VerifyOptions
from saliency.table.table import SaliencyTable
from tests.pipelines.build.test_build_saliency import tree, write_pictures
from tests.test_cli import GIVEN, IDS, KINDS, OPTIONS, example
from tests.tiny_mae import nano

FUNCTIONS = {
    "build_saliency": BuildOptions,
    "verify": VerifyOptions,
    "diff": DiffOptions,
    "publish": PublishOptions,
    "pretrain": PretrainOptions,
    "evaluate": EvaluateOptions,
    "compare": CompareOptions,
}
SMALL = {"model": "mini", "image_size": 32, "batch_size": 8, "epochs": 1, "workers": 0, "device": "cpu"}


@pytest.fixture
def settled(monkeypatch):
    """What the machine settles, always the same."""
    monkeypatch.setattr(machine, "usable_device", lambda name: name or "best")
    monkeypatch.setattr(machine, "half_the_cores", lambda processes=1: 16 // processes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_option_of_the_command_is_an_argument(name):
    function, options = getattr(sm, name), declared_options(FUNCTIONS[name])
    parameters = inspect.signature(function).parameters
    assert set(parameters) == {each.name for each in options} | {"quiet"}
    for each in options:
        required = parameters[each.name].default is inspect.Parameter.empty
        assert required == (each.default is MISSING)
        assert f"\n{each.name}: {each.option.help}" in function.__doc__


def test_values_are_taken_as_the_command_line_takes_them(settled):
    given = {"source": Path("images"), "out": "run", "image_size": 64, "salient_schedule": "0:0.5", "blr": 1}
    options = options_of(PretrainOptions, given | {"track": "wandb", "saliency": Path("maps")})
    assert (options.source, options.out, options.saliency) == ("images", Path("run"), "maps")
    assert (options.image_size, options.salient_schedule, options.blr) == ((64,), (0.0, 0.5), 1.0)
    assert isinstance(options.blr, float)
    assert options.track == ("wandb",)
    levels = {"source": "x", "out": "y", "masking": "mlo", "mlo_unroll": (3, 2)}
    assert options_of(PretrainOptions, levels).mlo_unroll == "3,2"
    for size in ("32x48", (32, 48), [32, 48]):
        assert options_of(PretrainOptions, {"source": "x", "out": "y", "image_size": size}).image_size == (32, 48)
    for shard in ("2/5", (2, 5), [2, 5]):
        assert options_of(BuildOptions, {"source": "x", "out": "y", "shard": shard}).shard == (2, 5)


def test_lists_and_numbers_for_what_is_typed_with_commas(settled):
    for seeds, text in ((3, "3"), ([0, 4], "0,4"), ("0,4", "0,4")):
        assert options_of(EvaluateOptions, {"run": "r", "source": "s", "seeds": seeds}).seeds == text
    shares = options_of(
        EvaluateOptions, {"run": "r", "source": "s", "protocol": "occlusion", "occlusion_shares": [0, 0.25]}
    ).shares()
    assert shares == (0.0, 0.25)


def test_a_flag_and_a_field_are_both_names(settled):
    for name in ("protocol", "protocols"):
        for value in ("knn", ["knn"], ("knn",)):
            assert options_of(EvaluateOptions, {"run": "r", "source": "s", name: value}).protocols == ("knn",)
    for name in ("licence", "license"):
        assert options_of(PublishOptions, {"maps": "m", "name": "me/x", name: "mit"}).licence == "mit"


def test_what_is_not_given_is_left_to_the_default_or_the_machine(settled, monkeypatch):
    asked = {"source": "x", "out": "y"}
    options = options_of(PretrainOptions, asked | {"mask_ratio": None, "epochs": None})
    assert (options.mask_ratio, options.epochs) == (None, 100)
    assert (options.device, options.workers) == ("best", 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert options_of(PretrainOptions, asked).workers == 4
    assert options_of(PretrainOptions, asked | {"workers": 0, "device": "cpu"}).workers == 0
    assert options_of(BuildOptions, asked | {"engine": "ray"}).device == "auto"
    assert options_of(BuildOptions, asked | {"engine": "ray", "device": "cuda"}).device == "cuda"


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=IDS)
def test_a_keyword_argument_is_what_the_command_line_makes_of_it(name, option):
    value, words = GIVEN.get((name, option.name)) or example(option)
    typed = list(words) if isinstance(option.default, tuple) and not option.option.parse else (words or [value])[0]
    if option.type in (int, float, Path, int | None, float | None, Path | None, tuple[float, ...]):
        typed = list(value) if isinstance(value, tuple) else value
    expected = given_values(KINDS[name], {option.name: typed})
    assert values_of(KINDS[name], {option.name: value}) == expected == {option.name: value}


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda: sm.build_saliency("x", "y", tile=3), "unknown option 'tile'; did you mean tiles?"),
        (lambda: sm.evaluate("x", "y", quite=True), "unknown option 'quite'"),
        (lambda: sm.evaluate("x", "y", protocol="knn", protocols="knn"), "is given twice"),
        (lambda: sm.pretrain("x", "y", epochs="many"), "epochs: takes a whole number, not 'many'"),
        (lambda: sm.pretrain("x", "y", norm_pix="yes"), "norm_pix: takes true or false, not 'yes'"),
        (lambda: sm.pretrain("x", "y", salient_schedule="high"), "--salient-schedule 'high' is not A:B"),
        (lambda: sm.build_saliency("x", "y", limit=0), "--limit is 0; it must be at least 1"),
        (lambda: sm.build_saliency("x", "y", method="cam"), "--method 'cam' is not one of: gradcam"),
        (
            lambda: sm.build_saliency("x", "y", captions="some"),
            "--captions 'some' is not one of: first, all",
        ),
        (lambda: sm.build_saliency("x", "y", device="tpu9"), "--device tpu9 can't be used here"),
        (lambda: sm.verify("nothing-there"), "nothing-there does not exist"),
        (lambda: sm.compare("shapes:8", "y", arms=["random", "salty"]), "arms: 'salty' has no options"),
        (lambda: sm.compare({"source": "shapes:8", "arm": []}, "y"), "unknown section 'arm'"),
        (lambda: sm.compare("shapes:8", "y", seed=3), "unknown option 'seed'; did you mean seeds?"),
    ],
)
def test_mistakes_are_one_line(ask, line):
    with pytest.raises(sm.UserError, match=line) as error:
        ask()
    assert "\n" not in str(error.value)


def test_maps_are_those_of_the_command(tmp_path, tiny_clip):
    from typer.testing import CliRunner

    import cli

    pictures = write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(6)])
    found = sm.build_saliency(pictures, tmp_path / "ours", clip=tiny_clip, shard_size=4, workers=1, quiet=True)
    words = ["--clip", tiny_clip, "--shard-size", "4", "--workers", "1"]
    done = CliRunner().invoke(cli.app, ["build-saliency", str(pictures), "--out", str(tmp_path / "theirs"), *words])
    assert done.exit_code == 0, done.output
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
    assert str(found) == f"6 pairs: 6 maps, 0 rejected in {tmp_path / 'ours'}"
    assert found.manifest.written == 6
    assert len(found.open()) == 6
    assert Path(found) == tmp_path / "ours"

    checks = sm.verify(found, pictures, quiet=True)
    assert checks.passed
    assert "stored bytes" in [check.name for check in checks]
    assert len(str(checks).splitlines()) == len(checks)
    facts = sm.publish(found, "me/maps", dry_run=tmp_path / "dataset", quiet=True)
    assert facts.facts["maps"] == 6
    assert "nothing was uploaded" in str(facts)
    assert len(SaliencyTable(tmp_path / "dataset")) == 6

    shard = next((tmp_path / "ours" / "data").iterdir())
    shard.write_bytes(shard.read_bytes()[:-8])
    broken = sm.verify(found, quiet=True)
    assert not broken.passed
    assert broken.failed
    assert "FAILED" in str(broken)


def test_a_run_and_what_it_is_worth(tmp_path):
    run = sm.pretrain("shapes:16,size=32", tmp_path / "run", quiet=True, **SMALL)
    assert run.config()["steps"] == 2
    assert str(run) == f"{tmp_path / 'run'}: step 2, loss {run.metrics()[-1]['loss']:.4f}"
    assert run.model(device="cpu").image_size == (32, 32)
    with pytest.raises(sm.UserError, match="holds a run; add --resume"):
        sm.pretrain("shapes:16,size=32", tmp_path / "run", quiet=True, **SMALL)
    assert sm.pretrain("shapes:16,size=32", run, resume=True, quiet=True, **SMALL).metrics() == run.metrics()

    asked = {"protocols": ["knn", "logistic"], "neighbours": 5, "workers": 0, "device": "cpu", "quiet": True}
    found = sm.evaluate(run, "shapes:48,size=32", **asked)
    assert found.result == json.loads((tmp_path / "run" / "evaluation.json").read_text()) | {
        "class_names": found.result["class_names"]
    }
    assert [row["encoder"] for row in found.rows] == [str(tmp_path / "run"), "untrained"]
    heading, first, _ = str(found).splitlines()
    assert heading.split() == ["encoder", "knn", "%", "logistic", "%"]
    row = found.rows[0]
    assert f"{100 * row['knn']:.1f} ± {100 * row['knn_interval']:.1f}" in first
    assert heading.index("knn") == first.index(f"{100 * row['knn']:.1f}")


def test_an_encoder_of_no_run(tmp_path):
    nano().save_pretrained(tmp_path / "saved")
    found = sm.evaluate(
        tmp_path / "saved",
        "shapes:48",
        protocol="knn",
        untrained=False,
        seeds=2,
        out=tmp_path / "out.json",
        workers=0,
        quiet=True,
    )
    assert found.result["seeds"] == [0, 1]
    assert (tmp_path / "out.json").exists()


def test_a_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.estimates.SECONDS", 0.1)
    plan = {
        "source": "shapes:16,size=32",
        "arms": {"random": {"masking": "random"}, "much": {"masking": "random", "mask_ratio": 0.5}},
        "seeds": [0, 1],
        "pretrain": {name: value for name, value in SMALL.items() if name != "device"} | {"patch_size": 8},
        "evaluate": {"source": "shapes:48,size=32", "protocol": "knn", "neighbours": 5},
    }
    asked = {"device": "cpu", "quiet": True}
    dry = sm.compare(plan, tmp_path / "out", seeds=1, dry_run=True, **asked)
    assert dry.states == {"random, seed 0": "new", "much, seed 0": "new"}
    assert dry.facts["time"] in str(dry)
    assert not (tmp_path / "out").exists()
    found = sm.compare(plan, tmp_path / "out", **asked)
    assert not found.comparison.failed
    assert set(found.comparison.values["knn"]) == {"random", "much", "untrained"}
    assert list(found.comparison.values["knn"]["much"]) == [0, 1]
    assert "baseline" in str(found)
    assert str(found).splitlines()[0].split()[0] == "arm"
    assert (Path(found) / "report.md").exists()
    (tmp_path / "plan.json").write_text("")
    with pytest.raises(sm.UserError, match=r"--arms: 'other' is not one of: random, much"):
        sm.compare(plan, tmp_path / "out", arms=["random", "other"], **asked)


def test_quiet_is_quiet(tmp_path, tiny_clip, capfd):
    sm.build_saliency("shapes:2", tmp_path / "maps", clip=tiny_clip, workers=1, quiet=True)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert np.isfinite(sm.open_maps(tmp_path / "maps")[0].map).all()
