"""``--config``: what a file gives, what the command line overrides, what is refused, and what is saved."""

import re
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import cli
from pipelines.commandline.config_file import SAVED, config_text, read_config, resolved_values
from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option, declared_options, given_values
from pipelines.commandline.option_text import fitted
from pipelines.commandline.typer_commands import with_options
from pipelines.commandline.yaml_text import parse_yaml
from pipelines.compare.options import CompareOptions
from pipelines.errors import UserError


def halves(text):
    low, high = (int(part) for part in text.split("-"))
    return low, high


@dataclass(frozen=True)
class Wishes:
    effects = (Effect(("pace",), lambda options: options.draw, "without --draw"),)

    place: Annotated[str, Argument("Where.")]
    out: Annotated[Path, Option("To where.")]
    span: Annotated[tuple[int, int], Option("From and to.", parse=halves, between="-", written="1-2")] = (1, 2)
    rates: Annotated[tuple[float, ...], Option("Rates.", flags=("--rate", "-r"))] = (0.5,)
    kind: Annotated[Literal["a", "b"] | None, Option("One of two.")] = None
    draw: Annotated[bool, Option("Draw it.")] = True
    hurry: Annotated[bool, Option("Don't wait.", panel="Speed")] = False
    pace: Annotated[int, Option("Steps.", least=2)] = 3
    device: Annotated[str, Option("On what.", settled=True)] = "cpu"


def run(tmp_path, text, *words):
    """What the command is called with, where a file has this text and the command line these words."""
    (tmp_path / "wishes.yaml").write_text(text)
    calls = []

    def command(given, loud: Annotated[bool, Option("Say more.")] = False):
        """Does it."""
        calls.append((Wishes(**given_values(Wishes, given)), loud))

    app = typer.Typer()
    app.command()(with_options(command, Wishes))
    done = CliRunner().invoke(app, ["--config", str(tmp_path / "wishes.yaml"), *words], env={"COLUMNS": "300"})
    return calls[0] if calls else done.output


FULL = "place: here\nout: there\nspan: [3, 9]\nrate: [1, 2.5]\nkind: b\ndraw: false\nhurry: true\nloud: true\n"


def test_a_file_gives_what_is_needed_and_the_command_line_overrides_it(tmp_path):
    found = Wishes("here", Path("there"), (3, 9), (1.0, 2.5), "b", draw=False, hurry=True)
    assert run(tmp_path, FULL) == (found, True)
    words = ["home", "--span", "4-5", "--rate", "7", "--draw", "--pace", "5"]
    assert run(tmp_path, FULL, *words) == (Wishes("home", Path("there"), (4, 5), (7.0,), "b", True, True, 5), True)
    assert run(tmp_path, "place: 7\nout: there\nkind:\n") == (Wishes("7", Path("there")), False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hury: true", "unknown option 'hury'; did you mean hurry?"),
        ("pace: fast", "pace: takes a whole number, not 'fast'"),
        ("pace: 1", "pace: --pace is 1; it must be at least 2"),
        ("kind: c", "kind: 'c' is not one of: a, b"),
        ("draw: 1", "draw: takes true or false, not 1"),
        ("rate: 1\nrates: 2", "rates is given twice"),
        ("span: true", "span: takes a text, not True"),
        ("- place", "has to have lines of the form 'option: value'"),
        ("place: [", "is not YAML"),
    ],
)
def test_what_a_file_can_not_say_is_told_with_its_name(tmp_path, text, message):
    said = " ".join(run(tmp_path, text).replace("│", " ").split())
    assert message in said
    assert "wishes.yaml" in said


def test_a_saved_file_gives_the_same_options_again(tmp_path):
    typed = {"place": "a: b", "out": "x", "span": "3-9", "rates": [1.0], "draw": False, "hurry": True, "pace": None}
    values = resolved_values(Wishes, typed)
    assert "pace" not in values  # without --draw it has no effect
    assert "device" not in values  # the machine settles it
    options = declared_options(Wishes)
    (tmp_path / SAVED).write_text(config_text("wish", options, values))
    again = read_config(tmp_path, options)
    assert given_values(Wishes, again | {"out": Path("x"), "rates": [1.0]}) == given_values(
        Wishes, typed | {"out": Path("x")}
    )


@pytest.mark.parametrize("command", sorted(set(get_command(cli.app).commands) - {"config"}))
def test_every_command_has_a_template_that_says_its_defaults(command, tmp_path):
    kind = cli._KINDS[command]
    printed = CliRunner().invoke(cli.app, ["config", command]).output
    needed = {each.flag.removeprefix("--") for each in declared_options(kind) if each.default is MISSING}
    assert (parse_yaml(printed, "") or {}).keys() == needed
    names = "|".join(re.escape(each.flag.removeprefix("--")) for each in declared_options(kind))
    (tmp_path / "all.yaml").write_text("\n".join(re.findall(rf"^# ((?:{names}): .+)$", printed, re.MULTILINE)))
    given = read_config(tmp_path / "all.yaml", declared_options(kind))
    defaults = {each.name: each.default for each in declared_options(kind)}
    told = {name for name, value in defaults.items() if value not in (None, (), MISSING)} - SETTLED
    assert told <= given.keys()
    for name in told:
        read = given[name] if isinstance(defaults[name], str) else read_as(kind, name, given[name])
        assert read == defaults[name]


SETTLED = {"device", "workers", "engine"}


def read_as(kind, name, text):
    """A value of a file as the field's."""
    option = next(each for each in declared_options(kind) if each.name == name)
    return option.option.parse(text) if option.option.parse else fitted(parse_yaml(str(text), ""), option.type)


def test_a_command_saves_what_it_ran_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("masks.yaml").write_text("source: shapes:4\nfrom: masks\nout: maps\nquiet: true\n")
    assert CliRunner().invoke(cli.app, ["import-maps", "--config", "masks.yaml", "--limit", "3"]).exit_code == 0
    assert parse_yaml(Path("maps", SAVED).read_text(), "") == {
        **{"source": "shapes:4", "from": "masks", "out": "maps", "limit": 3, "grid": 28},
        **{"captions": "first", "max-rejected": 0.01, "shard-size": 4096},
    }
    again = CliRunner().invoke(cli.app, ["import-maps", "--config", "maps", "--out", "maps-2", "--quiet"])
    assert "3 maps in maps-2" in again.output


@pytest.mark.parametrize("saved", [True, False])
def test_what_is_saved_has_no_secrets_and_only_where_it_may_be(tmp_path, monkeypatch, saved):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")

    def command(given):
        """Does it."""
        given["out"].mkdir()

    app = typer.Typer()
    app.command()(with_options(command, Wishes, saved=saved))
    place = "rtsp://me:pass@camera/hf_abcdefghij"
    assert CliRunner().invoke(app, [place, "--out", str(tmp_path / "out")]).exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == ({SAVED} if saved else set())
    if saved:
        assert parse_yaml((tmp_path / "out" / SAVED).read_text(), "")["place"] == "rtsp://…@camera/…"


def test_an_export_keeps_the_machines_paths_to_itself(tmp_path, models):
    done = CliRunner().invoke(cli.app, ["export", str(models / "image"), "--to", "timm", "--out", str(tmp_path / "x")])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "x" / SAVED).exists()


def test_an_unknown_command_is_refused():
    done = CliRunner().invoke(cli.app, ["config", "pretrane"])
    assert done.exit_code == 2
    assert "there is no command 'pretrane'" in done.output


def test_a_folder_without_a_file_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="command.yaml can't be read"):
        read_config(tmp_path, declared_options(CompareOptions))
