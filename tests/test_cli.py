import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_origin

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import cli
from pipelines.build.options import BuildOptions
from pipelines.commandline.option import Argument, declared_options, given_values
from pipelines.evaluate.options import EvaluateOptions
from pipelines.prepare.options import PrepareOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.publish.options import PublishOptions
from pipelines.verify.options import VerifyOptions
from tests.pipelines.build.test_build_saliency import write_pictures

ROOT = Path(__file__).parents[1]
COMMANDS = get_command(cli.app).commands
KINDS = {
    "build-saliency": BuildOptions,
    "verify": VerifyOptions,
    "publish": PublishOptions,
    "pretrain": PretrainOptions,
    "prepare": PrepareOptions,
    "evaluate": EvaluateOptions,
}
OPTIONS = [(name, option) for name, kind in KINDS.items() for option in declared_options(kind)]
IDS = [f"{name}-{option.name}" for name, option in OPTIONS]
GIVEN = {
    ("build-saliency", "shard"): ((2, 5), ["2/5"]),
    ("pretrain", "image_size"): ((32, 48), ["32x48"]),
    ("pretrain", "salient_schedule"): ((0.0, 0.5), ["0:0.5"]),
}
"""The values of options that are read from a text in a way of their own, and the texts."""


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def arguments_of(name):
    return [each for each in declared_options(KINDS[name]) if isinstance(each.option, Argument)]


def parsed(name, words):
    """What a command takes from a line that gives these words, and whatever else it requires."""
    required = [each for each in COMMANDS[name].params if each.required]
    if not words or words[0].startswith("-"):
        words = [*words, *("x" for each in arguments_of(name) if each.default is MISSING)]
    for each in required:
        if each.opts[0].startswith("--") and each.opts[0] not in words:
            words = [*words, each.opts[0], "x"]
    return COMMANDS[name].make_context(name, list(words)).params


def example(option):
    """A value that the option could have and does not have by default, and how it is typed."""
    kinds = [kind for kind in get_args(option.type) or (option.type,) if kind not in (type(None), Ellipsis)]
    if option.choices:
        value = next(each for each in option.choices if each != option.default)
        return ((value,) if get_origin(option.type) is tuple else value), [value]
    if get_origin(option.type) is tuple:
        value = {str: ("one", "two"), float: (0.5, 2.0)}[kinds[0]]
        return value, [str(part) for part in value]
    if kinds == [bool]:
        return not option.default, []
    value = "some" if str in kinds else {int: 77, float: 0.375, Path: Path("some")}[kinds[0]]
    return value, [str(value)]


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


@pytest.mark.parametrize("name", KINDS)
def test_options_of_a_pipeline_are_the_commands(name):
    """No option of the command line is left unused, and none of a pipeline is left out."""
    parameters = {parameter.name for parameter in COMMANDS[name].params}
    assert parameters - {"report"} == {field.name for field in fields(KINDS[name])}  # that one is only printed


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=IDS)
def test_a_given_option_reaches_its_field(name, option):
    value, words = GIVEN.get((name, option.name)) or example(option)
    parameter = next(each for each in COMMANDS[name].params if each.name == option.name)
    if isinstance(option.option, Argument):
        words = [words[0] if each.name == option.name else "x" for each in arguments_of(name)]
    else:
        flags = parameter.opts if value is not False else parameter.secondary_opts
        words = [word for each in words or [None] for word in (flags[-1], each) if word is not None]
    assert given_values(KINDS[name], parsed(name, words))[option.name] == value
    assert value != option.default, "the example tells nothing"


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_given_is_the_fields_default(name):
    found = given_values(KINDS[name], parsed(name, []))
    for option in declared_options(KINDS[name]):
        if option.default is not MISSING:
            assert found.get(option.name, option.default) == option.default, option.name


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=IDS)
def test_the_help_shows_the_fields_default(name, option):
    shown = next(each.default for each in COMMANDS[name].params if each.name == option.name)
    if option.default is MISSING or option.option.settled or (isinstance(option.default, tuple) and shown is None):
        assert shown is None
    else:
        assert (option.value(shown) if isinstance(shown, str) else shown) == option.default


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_a_help_text(name):
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_can_be_turned_off_if_it_is_on(name):
    for parameter in COMMANDS[name].params:
        if getattr(parameter, "is_flag", False):
            flag = f"--{parameter.name.replace('_', '-')}"
            assert (parameter.opts, parameter.secondary_opts) == (
                ([flag], [f"--no-{flag[2:]}"]) if parameter.default else ([flag], [])
            )


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
