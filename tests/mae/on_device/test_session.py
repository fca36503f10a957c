"""What a file says of itself comes back, and is refused in one line where it can't be."""

import json

import pytest

from mae.on_device.extra import needs_extra
from mae.on_device.latency import shortest_times
from mae.on_device.session import Facts

FACTS = Facts(
    image_size=(32, 24),
    patch_size=8,
    keep=0.5,
    patches=6,
    keep_by="gate",
    int8=True,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.2, 0.2),
    resize="in words",
    classes=("a", "ü"),
    model={"width": 16},
)


def test_facts_come_back():
    assert Facts.of(FACTS.texts()) == FACTS
    assert FACTS.grid == (4, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("saliency_mae_format", "2", "its format is '2'"),
        ("keep", "{", "can't be used"),
        ("keep", "[" * 100_000, "can't be used"),
        ("classes", "5", "can't be used"),
        ("image_size", "[32]", "can't be used"),
        ("image_size", "[32, 30]", "its sizes"),
        ("patch_size", "0", "its sizes"),
        ("patch_size", "true", "its sizes"),
        ("keep", "NaN", "its choice"),
        ("keep", '"0.5"', "can't be used"),
        ("keep_by", '"luck"', "its choice"),
        ("model", "[]", "can't be"),
        ("mean", "[1e400, 0.5]", "can't be"),
    ],
)
def test_facts_that_can_not_be_are_refused(name, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        Facts.of(FACTS.texts() | {name: text})
    assert "\n" not in str(caught.value)


def test_facts_that_are_missing_are_refused():
    with pytest.raises(ValueError, match="does not say how it was made"):
        Facts.of({})
    texts = FACTS.texts()
    del texts["model"]
    with pytest.raises(ValueError, match="can't be used"):
        Facts.of(texts)
    assert json.loads(FACTS.texts()["keep_by"]) == "gate"


def test_a_missing_package_says_what_to_install():
    with pytest.raises(ValueError, match=r"no_such_package is missing: pip install 'saliency-mae\[onnx\]'"):
        needs_extra("json", "no_such_package")


def test_times_are_the_shortest_of_calls_in_turns(monkeypatch):
    clock, calls = [0.0], []

    def call(name, takes):
        def called():
            calls.append(name)
            clock[0] += takes[min(calls.count(name), len(takes)) - 1]

        return called

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    both = {"a": call("a", [9.0, 3.0, 2.0, 4.0]), "b": call("b", [1.0])}
    assert shortest_times(both, rounds=6, seconds=0.1) == {"a": 2.0, "b": 1.0}
    assert calls == ["a", "b"] * 6, "once before, and five rounds at least"
