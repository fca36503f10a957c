import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_origin

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import cli
from pipelines.build.options import BuildOptions, MergeOptions
from pipelines.commandline.option import Argument, declared_options, given_values
from pipelines.compare.options import CompareOptions
from pipelines.demo.options import DemoOptions
from pipelines.diff.options import DiffOptions
from pipelines.doctor.options import DoctorOptions
from pipelines.encode.options import EncodeOptions
from pipelines.errors import UserError
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.results.requirements import Requirements
from pipelines.export.export import export
from pipelines.export.options import ExportOptions
from pipelines.export_maps.options import ExportMapsOptions
from pipelines.import_maps.options import ImportOptions
from pipelines.inspect.options import InspectOptions
from pipelines.prepare.options import PrepareOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.publish.options import PublishOptions
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.verify.options import VerifyOptions
from saliency import __version__
from saliency.names import METHOD_NAMES, MOTION_METHODS
from tests.pipelines.build.test_build_saliency import write_pictures

ROOT = Path(__file__).parents[1]
COMMANDS = get_command(cli.app).commands
KINDS = {
    "build-saliency": BuildOptions,
    "merge": MergeOptions,
    "import-maps": ImportOptions,
    "export-maps": ExportMapsOptions,
    "inspect": InspectOptions,
    "verify": VerifyOptions,
    "diff": DiffOptions,
    "doctor": DoctorOptions,
    "publish": PublishOptions,
    "pretrain": PretrainOptions,
    "prepare": PrepareOptions,
    "evaluate": EvaluateOptions,
    "reconstruct": ReconstructOptions,
    "encode": EncodeOptions,
    "compare": CompareOptions,
    "export": ExportOptions,
    "demo": DemoOptions,
}
OPTIONS = [(name, option) for name, kind in KINDS.items() for option in declared_options(kind)]
IDS = [f"{name}-{option.name}" for name, option in OPTIONS]
GIVEN = {
    ("evaluate", "require"): (Requirements(accuracy=-1.0, latency=2.0), ["accuracy=-1,latency=2x"]),
    ("build-saliency", "shard"): ((2, 5), ["2/5"]),
    ("pretrain", "image_size"): ((32, 48), ["32x48"]),
    ("inspect", "image_size"): ((32, 48), ["32x48"]),
    ("pretrain", "salient_schedule"): ((0.0, 0.5), ["0:0.5"]),
    ("reconstruct", "size"): ((640, 480), ["640x480"]),
    ("encode", "size"): ((640, 480), ["640x480"]),
}
"""The values of options that are read from a text in a way of their own, and the texts."""


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def arguments_of(name):
    return [each for each in declared_options(KINDS[name]) if isinstance(each.option, Argument)]


def parsed(name, words):
    """What a command takes from a line that gives these words, and whatever else it requires."""
    if not words or words[0].startswith("-"):
        words = [*words, *("x" for each in arguments_of(name) if each.default is MISSING)]
    for each in declared_options(KINDS[name]):
        if each.default is MISSING and not isinstance(each.option, Argument) and each.flag not in words:
            words = [*words, each.flag, *(each.choices[:1] or ["x"])]
    return COMMANDS[name].make_context(name, list(words)).params


def example(option):
    """A value that the option could have and does not have by default, and how it is typed."""
    kinds = [kind for kind in get_args(option.type) or (option.type,) if kind not in (type(None), Ellipsis)]
    if option.choices:
        value = next(each for each in option.choices if each != option.default)
        return ((value,) if get_origin(option.type) is tuple else value), [value]
    if get_origin(option.type) is tuple:
        value = option.choices[-2:] or {str: ("one", "two"), float: (0.5, 2.0)}[kinds[0]]
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
    of_the_terminal = {"report", "quiet", "config", "dry_run"} - {field.name for field in fields(KINDS[name])}
    assert parameters - of_the_terminal == {field.name for field in fields(KINDS[name])}


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=IDS)
def test_a_given_option_reaches_its_field(name, option):
    value, words = GIVEN.get((name, option.name)) or example(option)
    parameter = next(each for each in COMMANDS[name].params if each.name == option.name)
    if isinstance(option.option, Argument):
        words = [word for each in arguments_of(name) for word in (words if each.name == option.name else ["x"])]
    else:
        flags = parameter.opts if value is not False else parameter.secondary_opts
        words = [word for each in words or [None] for word in (flags[-1], each) if word is not None]
    found = given_values(KINDS[name], parsed(name, words))[option.name]
    # Some versions of typer make a path of the text when they call the command, after it is parsed.
    assert (Path(found) if isinstance(value, Path) else found) == value
    assert value != option.default, "the example tells nothing"


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_given_is_the_fields_default(name):
    found = given_values(KINDS[name], parsed(name, []))
    for option in declared_options(KINDS[name]):
        if option.default is not MISSING:
            assert found.get(option.name, option.default) == option.default, option.name


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=IDS)
def test_the_help_shows_the_fields_default(name, option):
    parameter = next(each for each in COMMANDS[name].params if each.name == option.name)
    shown = re.search(r"\[default: (.*)\]", parameter.help)
    if option.type is bool:
        assert parameter.default == option.default
        return
    assert parameter.default is None
    if option.default is MISSING:
        assert shown is None
    elif option.default not in (None, ()) and not option.option.settled and option.name != "protocols":
        typed = parsed(name, [option.flag, shown[1]])[option.name]
        assert option.value(typed) == option.default


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
        (["build-saliency", "shapes:3", "--out", "OUT", "--limit", "0"], "--limit is 0; it must be at least 1"),
        (
            ["build-saliency", "shapes:3", "--out", "OUT", "--method", "x"],
            "--method 'x' is not one of: gradcam, grad",
        ),
        (["build-saliency", "shapes:3", "--out", "OUT", "--clip", "nonsense", "--pretrained", "x"], "not an open_clip"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--device", "cuda:99"], "--device cuda:99 can't be used"),
        (["build-saliency", "shapes:3", "--out", "OUT", "--shard", "0/3"], "--shard '0/3' is not i/n"),
        (
            ["build-saliency", "shapes:3", "--out", "OUT", "--engine", "x"],
            "--engine 'x' is not one of: local, ray",
        ),
        (["merge", "/no/such/place"], "holds no parts of a job array"),
        (["build-saliency", "user/dataset", "--out", "OUT"], "HF_HUB_OFFLINE"),
        (["inspect", "/no/such/place"], "does not exist"),
        (
            ["inspect", "x", "--require", "auc", "--require", "f1"],
            "--require 'f1' is not one of: pointing",
        ),
        (["export", "x", "--out", "OUT", "--to", "jax"], "--to 'jax' is not one of: mae, timm, transformers, onnx"),
        (["compare", "shapes:3", "--out", "OUT", "--jobs", "0"], "--jobs is 0; it must be at least 1"),
        (["reconstruct", "x", "-", "--out", "OUT", "--box", "0,0,1,1", "--size", "9"], "--size '9': give WIDTHxHEIGHT"),
        (["reconstruct", "x", "-", "--out", "OUT", "--box", "0,0,1,1"], "need their --size WIDTHxHEIGHT"),
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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["build-saliency", "--methd"],
            "no such option: --methd (did you mean --method?); see mae-cli B --help",
        ),
        (["build-saliency", "x", "--nonsense"], "no such option: --nonsense; see mae-cli B --help"),
        (["build-saliency"], "missing argument 'source'; see mae-cli B --help"),
        (["build-saliency", "x"], "missing option '--out'; see mae-cli B --help"),
        (["nonsense"], "no such command 'nonsense'; see mae-cli --help"),
    ],
)
def test_a_mistake_in_the_usage_is_one_line_too(words, line, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"error: {line.replace(' B ', ' build-saliency ')}\n")


@pytest.mark.parametrize(("flag", "value"), [("--batch-size", "many"), ("--max-rejected", "few")])
def test_a_number_that_is_none(flag, value, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["build-saliency", "x", "--out", "y", flag, value])
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert told.startswith(f"error: invalid value for '{flag}': ")
    assert told.endswith("; see mae-cli build-saliency --help\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    ["pretrain a --out b --seed", "demo --seed", "verify a b --seed", "evaluate a b --seed", "inspect a --limit"],
)
def test_a_number_that_is_too_large(words):
    done = run(*words.split(), "9" * 25)
    assert done.exit_code == 2
    assert done.stderr == f"error: {words.split()[-1]} is {'9' * 25}; it must be at most {2**62}\n"


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["merge", "/no/such/place"], 2)])
def test_main_ends_with_the_exit_code(words, code, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == code
    told = capsys.readouterr()
    assert ("build-saliency" in told.out) == (words != ["merge", "/no/such/place"])
    assert told.err.startswith("error: /no/such/place") == (words == ["merge", "/no/such/place"])


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"saliency-mae {__version__}\n")


def completed(line):
    """What a shell offers for the last word of a command line."""
    words = {"_MAE_CLI_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = CliRunner().invoke(cli.app, [], prog_name="mae-cli", env=words)
    assert result.exit_code == 0
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("build-saliency x --fit ", ["squash", "crop"]),  # a Literal
        ("build-saliency x --method grad", ["gradcam", "grad-eclip", "gradcam++"]),  # choices
        ("inspect x --require auc --require ", ["pointing", "energy", "iou", "auc"]),  # of a list
        ("export x --to t", ["timm", "transformers"]),
        ("enc", ["encode"]),
        ("encode --as", ["--as-video"]),
    ],
)
def test_the_shell_completes(line, offered):
    assert completed(f"mae-cli {line}") == offered


PANELS = {
    "build-saliency": {"Maps": "--grid", "Data": "--captions", "Speed": "--batch-size", "Where it runs": "--engine"},
    "inspect": {
        "Gallery": "--gallery",
        "Scores": "--require",
        "Masks": "--mask-ratio",
        "Masks by saliency maps": "--salient-of",
        "Model": "--image-size",
        "Where it runs": "--device",
    },
    "verify": {"Data": "--limit"},
    "publish": {"Preview pictures": "--preview", "Dataset card": "--licence"},
    "prepare": {"Data": "--captions", "Where it runs": "--workers"},
    "reconstruct": {
        "What is hidden": "--mask",
        "Video": "--lossless",
        "Speed": "--precision",
        "Where it runs": "--device",
    },
    "encode": {"Video": "--fps", "Speed": "--precision", "Where it runs": "--device"},
    "compare": {"What can be said": "--power", "Without a plan": "--protocol", "Where it runs": "--jobs"},
    "demo": {"Where it runs": "--device"},
}


@pytest.mark.parametrize("name", PANELS)
def test_the_help_groups_the_options(name):
    """What is required stands first, under Options; each further panel, in this order, has its options."""
    text = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "120"}).stdout
    first, *panels = re.split(r"^╭─ ", text.partition("╭─ Options")[2], flags=re.M)
    for each in declared_options(KINDS[name]):
        if each.default is MISSING and not isinstance(each.option, Argument):
            assert f" {each.flag} " in first
    assert "--help" in first
    assert len(panels) == len(PANELS[name])
    for panel, (title, flag) in zip(panels, PANELS[name].items(), strict=True):
        assert panel.startswith(f"{title} ")
        assert re.search(rf"^│ {flag}[ ,]", panel, re.M)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_help_lists_the_choices(columns):
    text = CliRunner().invoke(cli.app, ["build-saliency", "--help"], env={"COLUMNS": columns}).stdout
    assert "[squash|crop]" in text
    words = re.sub(r"[│\s]+", " ", text)
    assert f"One of: {', '.join((*METHOD_NAMES, *MOTION_METHODS))}." in words


@pytest.mark.parametrize("name", COMMANDS)
def test_no_name_is_cut_short_at_80_columns(name):
    text = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "80"}).stdout
    assert all(option in text for each in COMMANDS[name].params for option in each.opts)


def test_names_in_help_texts_are_all_there_are(tmp_path):
    formats = next(each for each in declared_options(ExportOptions) if each.name == "to").choices
    with pytest.raises(UserError, match=f"is not one of: {', '.join(formats)}$"):
        export(tmp_path, "x", tmp_path / "out")


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
        assert result.stderr.splitlines()[-1].startswith("next: mae-cli ")
    again = run(*steps[0][0], "--quiet")
    assert (again.exit_code, again.stderr) == (0, "")
    assert (trained / "plots" / "reconstructions.png").exists()
    assert (trained / "plots" / "loss.png").exists()
    assert (trained / "evaluation.json").exists()
