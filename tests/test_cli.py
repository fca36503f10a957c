import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import cli
from tests.pipelines.test_build_saliency import write_pictures

ROOT = Path(__file__).parents[1]
COMMANDS = get_command(cli.app).commands


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def readme_commands():
    """Every ``mae-cli …`` in the README, in code blocks and in the text."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"^mae-cli [^#\n]*", text, re.M) + re.findall(r"`(mae-cli [^`]*)`", text)
    return [part.strip() for line in found for part in line.split("&&")]


def test_the_readme_names_commands():
    assert {shlex.split(line)[1] for line in readme_commands()} >= {"build-saliency", "inspect", "pretrain", "evaluate"}


@pytest.mark.parametrize("line", readme_commands())
def test_what_the_readme_shows_can_be_parsed(line):
    name, *arguments = shlex.split(line)[1:]
    command = COMMANDS[name]
    context = command.make_context(name, arguments)
    assert context.params


def test_every_option_the_readme_names_exists():
    options = {name for command in COMMANDS.values() for p in command.params for name in (*p.opts, *p.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "README.md").read_text()))
    foreign = {"--help", "--repo-type", "--local-dir", "--nproc-per-node", "--max-restarts"}
    assert named - foreign <= options, sorted(named - foreign - options)


def test_options_of_a_pipeline_are_the_commands():
    """No option of the command line is left unused, and none of a pipeline is left out."""
    from dataclasses import fields

    from pipelines.build_job import BuildOptions
    from pipelines.evaluate import EvaluateOptions
    from pipelines.pretrain_options import PretrainOptions

    renamed = {"protocol": "protocols"}
    for name, kind in (("build-saliency", BuildOptions), ("pretrain", PretrainOptions), ("evaluate", EvaluateOptions)):
        parameters = {renamed.get(p.name, p.name) for p in COMMANDS[name].params} - {"report"}  # only printed
        assert parameters == {field.name for field in fields(kind)}


def test_defaults_of_the_command_line_are_the_pipelines():
    from dataclasses import MISSING, fields

    from pipelines.build_job import BuildOptions
    from pipelines.evaluate import EvaluateOptions
    from pipelines.pretrain_options import PretrainOptions

    derived = {
        "workers",
        "device",
        "protocols",
        "beside",
        "image_size",
        "salient_schedule",
        "shard",
        "linear_blr",
        "occluder",
        "track",
    }
    for name, kind in (("build-saliency", BuildOptions), ("pretrain", PretrainOptions), ("evaluate", EvaluateOptions)):
        shown = {p.name: p.default for p in COMMANDS[name].params}
        for field in fields(kind):
            if field.default is not MISSING and field.name not in derived:
                assert shown[field.name] == field.default, (name, field.name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build-saliency", "/no/such/place", "--out", "OUT"], "/no/such/place does not exist"),
        (["build-saliency", "shapes:ten", "--out", "OUT"], "shapes:N"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--grid", "0"], "--grid is 0"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--method", "x"], "--method"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--clip", "nonsense", "--pretrained", "x"], "not an open_clip"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--device", "cuda:99"], "--device cuda:99 can't be used"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--shard", "0/3"], "--shard '0/3' is not i/n"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--engine", "spark"], "--engine is 'spark'"),
        (["merge", "/no/such/place"], "holds no parts of a job array"),
        (["build-saliency", "user/dataset", "--out", "OUT"], "HF_HUB_OFFLINE"),
        (["inspect", "/no/such/place"], "does not exist"),
        (["pretrain", "shapes:3", "--out", "OUT", "--image-size", "big"], "--image-size 'big'"),
        (["pretrain", "shapes:3", "--out", "OUT", "--salient-schedule", "0-1"], "--salient-schedule '0-1'"),
        (["pretrain", "shapes:3", "--out", "OUT", "--masking", "magic"], "--masking 'magic'"),
        (["demo", "--out", "FULL"], "holds no demo"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    places = {"OUT": tmp_path / "out", "FULL": tmp_path / "full"}
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_the_line_from_pairs_to_judged_features(tmp_path, tiny_clip):
    """build-saliency → inspect → pretrain → evaluate on a folder, as a user types them."""
    import numpy as np
    from PIL import Image

    tiny = ["--model", "tiny", "--image-size", "32", "--patch-size", "8", "--batch-size", "4", "--epochs", "1"]
    pictures = write_pictures(tmp_path / "pairs", [f"picture {i}" for i in range(12)])
    maps, trained = tmp_path / "maps", tmp_path / "run"
    for name in ("cat", "dog"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for i in range(5):
            noise = np.random.default_rng(i).integers(0, 255, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / "labelled" / name / f"{i}.png")
    steps = [
        (["build-saliency", pictures, "--out", maps, "--clip", tiny_clip, "--report"], "bottleneck"),
        (["inspect", maps, "--gallery", tmp_path / "g.png"], "12 in = 12 written + 0 rejected"),
        (["pretrain", pictures, "--saliency", maps, "--out", trained, "--workers", "0", *tiny], "step 3, loss"),
        (["inspect", trained], "salient, mask ratio 0.75"),
        (["evaluate", trained, tmp_path / "labelled", "--workers", "0"], "untrained"),
    ]
    for arguments, expected in steps:
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert expected in result.stdout
    assert (trained / "plots" / "reconstructions.png").exists()
    assert (trained / "plots" / "loss.png").exists()
    assert (trained / "evaluation.json").exists()


def test_help_does_not_load_torch():
    code = "import sys, cli; cli.app(['pretrain', '--help'], standalone_mode=False); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"COLUMNS": "120"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
