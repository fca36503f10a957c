"""What ``commandline.option`` and ``commandline.typer_commands`` make of a dataclass and of a function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from pipelines.commandline.option import Argument, Option, check_declared, declared_options, given_values
from pipelines.commandline.typer_commands import with_options


def halves(text):
    try:
        low, high = (int(part) for part in text.split("-"))
    except ValueError:
        raise ValueError(f"{text!r} is not A-B") from None
    return low, high


@dataclass(frozen=True)
class Wishes:
    place: Annotated[str, Argument("Where.")]
    file: Annotated[str | Path | None, Option("A file.")] = None
    span: Annotated[tuple[int, int], Option("From and to.", parse=halves, written="1-2")] = (1, 2)
    rates: Annotated[tuple[float, ...], Option("Rates [of what].", flags=("--rate", "-r"))] = (0.5,)
    draw: Annotated[bool, Option("Draw it.")] = True
    hurry: Annotated[bool, Option("Don't wait.")] = False
    count: Annotated[int, Option("How many.", least=2)] = 3
    device: Annotated[str, Option("Where to.", settled=True)] = "cpu"


def typed(*words, kind=Wishes):
    """(Exit code, what was printed, what the command was called with)."""
    calls = []

    def command(given, loud: Annotated[bool, Option("Say more.")] = False):
        """Does it."""
        calls.append((given, loud))

    app = typer.Typer()
    app.command()(with_options(command, kind))
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    return done.exit_code, done.output, calls


def test_what_is_not_given_is_left_to_the_field():
    _, _, [(given, loud)] = typed("here")
    assert not loud
    assert given_values(Wishes, given) == {"place": "here", "draw": True, "hurry": False}
    assert Wishes(**given_values(Wishes, given)) == Wishes("here")


def test_what_is_given_has_the_fields_types():
    words = ["--file=x", "--span=3-9", "--rate=1", "-r", "2.5", "--no-draw", "--hurry", "--count=5", "--device=cuda"]
    _, _, [(given, loud)] = typed("here", *words, "--loud")
    assert loud
    assert Wishes(**given_values(Wishes, given)) == Wishes(
        "here", "x", (3, 9), (1.0, 2.5), draw=False, hurry=True, count=5, device="cuda"
    )


def test_a_text_that_can_not_be_parsed_is_a_value_error_when_the_options_are_made():
    _, _, [(given, _)] = typed("here", "--span", "all")
    with pytest.raises(ValueError, match="'all' is not A-B"):
        given_values(Wishes, given)


@pytest.mark.parametrize("words", [[], ["here", "--count", "few"], ["here", "--no-hurry"], ["here", "--rates", "1"]])
def test_the_command_line_refuses(words):
    code, _, calls = typed(*words)
    assert (code, calls) == (2, [])


def test_the_help_has_everything_in_the_fields_order():
    _, text, _ = typed("--help")
    names = ["place", "--file", "--span", "--rate", "--draw", "--hurry", "--count", "--device", "--loud"]
    places = [text.index(f" {name} ") for name in names if name != "--draw"]
    assert places == sorted(places)
    for part in ("Does it.", "Rates [of what].", "--no-draw", "[default: 1-2]", "[default: 3]", "Where to."):
        assert part in text
    assert "--no-hurry" not in text
    assert "default: cpu" not in text


MANY = tuple(f"choice-{i}" for i in range(9))


@dataclass(frozen=True)
class Choosy:
    one: Annotated[Literal["a", "b"], Option("One of two.")] = "a"
    some: Annotated[tuple[Literal["a", "b"], ...], Option("Some of them.")] = ()
    many: Annotated[str | None, Option("Many.", choices=MANY)] = None
    more: Annotated[tuple[str, ...], Option("More [default: all]", choices=MANY)] = ()
    counts: Annotated[tuple[int, ...], Option("Numbers.", least=2)] = (2,)

    def __post_init__(self):
        check_declared(self)


def test_choices_that_are_taken():
    words = ["--one", "b", "--some", "b", "--some", "a", "--many", "choice-7", "--counts", "3"]
    _, _, [(given, _)] = typed(*words, kind=Choosy)
    assert Choosy(**given_values(Choosy, given)) == Choosy("b", ("b", "a"), "choice-7", counts=(3,))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("one", "c", "--one 'c' is not one of: a, b"),
        ("some", ("a", "c"), "--some 'c' is not one of: a, b"),
        ("many", "choice-9", "--many 'choice-9' is not one of: choice-0, .*, choice-8"),
        ("counts", (2, 1), "--counts is 1; it must be at least 2"),
    ],
)
def test_what_is_none_of_them_or_too_small(name, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Choosy(**{name: value})
    words = [str(word) for each in (value if isinstance(value, tuple) else [value]) for word in (f"--{name}", each)]
    _, _, [(given, _)] = typed(*words, kind=Choosy)
    with pytest.raises(ValueError, match=f"^{message}$"):
        given_values(Choosy, given)


def test_the_help_lists_choices_in_the_place_of_the_type_or_in_the_text():
    _, text, _ = typed("--help", kind=Choosy)
    rows = {line.split()[1]: " ".join(line.strip("│ ").split()) for line in text.splitlines() if "│ --" in line}
    assert rows["--one"] == "--one [a|b] One of two. [default: a]"
    assert rows["--some"] == "--some [a|b] Some of them."
    assert rows["--counts"] == "--counts <int>... Numbers."
    kind, _, said = rows["--many"].removeprefix("--many ").partition(" ")
    assert kind in ("<str>", "TEXT")  # as the version of typer names it
    assert said.startswith("Many. One of: choice-0, choice-1, ")
    assert f"Many. One of: {', '.join(MANY)}." in " ".join(text.replace("│", " ").split())
    assert f"More. One of: {', '.join(MANY)}. [default: all]" in " ".join(text.replace("│", " ").split())
    assert rows["--loud"] == "--loud Say more."


@dataclass
class Bare:
    told: Annotated[int, Option("A number.")] = 1
    bare: int = 2


def test_an_option_without_a_help_text_is_refused():
    with pytest.raises(TypeError, match="bare"):
        declared_options(Bare)
    with pytest.raises(TypeError, match="bare"):
        typed(kind=Bare)
