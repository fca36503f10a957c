import json
from typing import Annotated, Any, Literal, Required, TypedDict

import pytest

from saliency.shape import Between, fitting, read_fitting


class Inner(TypedDict):
    sides: tuple[int, int]


class Whole(TypedDict, total=False):
    name: Required[str]
    count: Annotated[int, Between(0, 9)]
    share: Annotated[float, Between(0, 1)] | None
    rate: float
    on: bool
    kind: Literal["a", "b"]
    inner: Inner
    names: list[str]
    numbers: dict[str, int]
    more: Any


FINE = {"name": "x", "count": 3, "share": 1, "rate": float("nan"), "on": True, "kind": "a", "inner": {"sides": [1, 2]}}
FINE |= {"names": ["é"], "numbers": {"a": 1}, "more": [{}], "of a later version": 1}


def test_what_fits_is_given_back_as_it_is():
    assert fitting(FINE, Whole) is FINE
    assert fitting({"name": ""}, Whole) == {"name": ""}
    assert fitting(FINE | {"share": None}, Whole)["share"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it is no object of names and values"),
        ({}, "name is missing"),
        (FINE | {"name": None}, "name is None, not a text"),
        (FINE | {"count": True}, "count is True, not a whole number"),
        (FINE | {"count": 1.0}, "count is 1.0, not a whole number"),
        (FINE | {"count": 10}, "count is 10, not from 0 to 9"),
        (FINE | {"share": float("nan")}, "share is nan, not from 0 to 1"),
        (FINE | {"rate": 10**400}, "not a number"),
        (FINE | {"rate": "1"}, "rate is '1', not a number"),
        (FINE | {"on": 1}, "on is 1, not true or false"),
        (FINE | {"kind": ["a"]}, r"kind is \['a'\], not one of: a, b"),
        (FINE | {"inner": {"sides": [1]}}, "inner.sides is no list of 2"),
        (FINE | {"inner": {"sides": [1, "2"]}}, r"inner.sides\[1\] is '2', not a whole number"),
        (FINE | {"names": "abc"}, "names is no list"),
        (FINE | {"numbers": {"a": None}}, "numbers.a is None, not a whole number"),
        (FINE | {"more": ["\ud800"]}, "it holds half of a surrogate pair"),
    ],
)
def test_the_first_place_that_does_not_fit_is_named(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        fitting(content, Whole)
    assert len(str(caught.value)) < 120


def test_a_file(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"name": "x"}))
    assert read_fitting(tmp_path / "a.json", Whole) == {"name": "x"}
    with pytest.raises(ValueError, match="Larger than 3 bytes"):
        read_fitting(tmp_path / "a.json", Whole, 3)
    with pytest.raises(ValueError, match="No such file"):
        read_fitting(tmp_path / "none.json", Whole)
