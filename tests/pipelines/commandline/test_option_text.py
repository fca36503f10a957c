from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from pipelines.commandline.option_text import option_values, parse_seeds, words_to_options


@dataclass(frozen=True)
class Options:
    rate: float = 1.0
    count: int = 1
    most: int | None = None
    size: tuple[int, ...] = (8,)
    span: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    on: bool = True
    place: Path | None = None
    where: str | Path | None = None
    kind: Literal["first", "all"] = "first"


def values(**given):
    return option_values(Options, {name.replace("_", "-"): value for name, value in given.items()}, barred={})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rate": "1e-3"}, {"rate": 1e-3}),  # a text to YAML
        ({"rate": 2}, {"rate": 2.0}),
        ({"most": None}, {"most": None}),
        ({"most": 3}, {"most": 3}),
        ({"size": 32}, {"size": (32,)}),
        ({"size": "32x64"}, {"size": (32, 64)}),
        ({"size": [32, 64]}, {"size": (32, 64)}),
        ({"span": "0:0.5"}, {"span": (0.0, 0.5)}),
        ({"span": [0, 0.5]}, {"span": (0.0, 0.5)}),
        ({"names": "knn"}, {"names": ("knn",)}),
        ({"names": ["knn", "x"]}, {"names": ("knn", "x")}),
        ({"place": "a"}, {"place": Path("a")}),
        ({"where": "a"}, {"where": "a"}),
        ({"kind": "all", "on": False}, {"kind": "all", "on": False}),
    ],
)
def test_values_of_the_fields_types(given, expected):
    found = values(**given)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": "fast"}, "rate: takes a number, not 'fast'"),
        ({"rate": True}, "takes a number"),
        ({"count": 1.5}, "count: takes a whole number, not 1.5"),
        ({"count": True}, "takes a whole number"),
        ({"count": None}, "takes a whole number"),
        ({"size": "big"}, "takes a whole number, not 'big'"),
        ({"span": 0.5}, "takes 2 values"),  # what YAML makes of 0:0.5
        ({"on": "yes"}, "takes true or false"),
        ({"place": 3}, "takes a text"),
        ({"kind": "last"}, "'last' is not one of: first, all"),
        ({"cuont": 3}, "unknown option 'cuont'; did you mean count"),
        ({"zzz": 3}, "unknown option 'zzz'$"),
    ],
)
def test_what_does_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        values(**given)


def test_two_spellings_of_one_option():
    @dataclass(frozen=True)
    class Two:
        batch_size: int = 1

    assert option_values(Two, {"batch-size": 2}, barred={}) == {"batch_size": 2}
    with pytest.raises(ValueError, match="given twice"):
        option_values(Two, {"batch-size": 2, "batch_size": 3}, barred={})


def test_words_of_a_command_line():
    words = ["--blr", "1e-3", "--no-norm-pix", "--salient-schedule", "0:0.5", "--image-size=32x64", "--deterministic"]
    assert words_to_options([*words, "--epochs", "3"]) == {
        "blr": "1e-3",
        "norm-pix": False,
        "salient-schedule": "0:0.5",
        "image-size": "32x64",
        "deterministic": True,
        "epochs": 3,
    }


@pytest.mark.parametrize("words", [["epochs", "3"], ["--"], ["--epochs", "3", "4"], ["--a", "1", "--a", "2"]])
def test_words_that_are_no_options(words):
    with pytest.raises(ValueError, match="stands where an option is expected|given twice"):
        words_to_options(words)


@pytest.mark.parametrize(
    ("value", "first", "seeds"),
    [(2, 0, (0, 1)), ("2", 5, (5, 6)), ("0,4", 5, (0, 4)), ([3, 1], 0, (3, 1)), ("7", 0, tuple(range(7)))],
)
def test_seeds(value, first, seeds):
    assert parse_seeds(value, first=first) == seeds


@pytest.mark.parametrize(
    "value", ["many", "0", 0, -1, "0,0", "1,-2", True, [1.5], [], 10**10, "9" * 30, "1," + "9" * 30]
)
def test_what_is_no_seeds_is_one_line(value):
    with pytest.raises(ValueError, match="not a number of seeds from 1 to 10000"):
        parse_seeds(value)


def test_numbers_have_an_end():
    with pytest.raises(ValueError, match="count: takes a whole number of at most"):
        values(count=10**20)
