"""Options of the levels that go together."""

import pytest

from mae.multilevel.forms import BEFORE, FORMS, settled
from mae.multilevel.settings import MultilevelSettings, settings_from


def test_what_is_not_said_is_of_the_form():
    for form, values in FORMS.items():
        found = settled({"mlo_form": form})
        for name in set(values) - {"masker_rate"}:
            assert found[f"mlo_{name}"] == values[name]
    assert settled({})["mlo_form"] == "own"
    assert settled({"mlo_share": 0.3, "mlo_pool": None})["mlo_share"] == 0.3
    rates = [settled({"mlo_masker": masker})["mlo_masker_rate"] for masker in ("mix", "gate")]
    assert rates == [0.05, 0.001]


def test_the_papers_form_is_that_of_the_paper():
    found = settings_from({"mlo_form": "paper"})
    assert found == MultilevelSettings("paper", "mlp", head_rule="authors", masker_rule="authors")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mlo_path": "drawn"}, "--mlo-path drawn is not --mlo-form paper, which has weighted: leave one out"),
        ({"mlo_share": 0.5}, "--mlo-share 0.5 is not --mlo-form paper, which has 1.0"),
        ({"mlo_masker_rate": 0.1}, "--mlo-masker-rate 0.1 is not --mlo-form paper, which has 0.001"),
    ],
)
def test_what_is_not_the_papers_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        settled({"mlo_form": "paper"} | given)
    assert settled({"mlo_form": "paper", "mlo_path": "weighted", "mlo_split": 0.4})["mlo_split"] == 0.4


def test_a_run_keeps_what_it_was_begun_with():
    begun = BEFORE | {f"mlo_{name}": value for name, value in FORMS["paper"].items() if f"mlo_{name}" not in BEFORE}
    assert settled({}, begun | {"mlo_masker": "gate"})["mlo_masker"] == "gate"
    assert settled({}, begun)["mlo_share"] == 1.0
    assert settled({"mlo_share": 0.5}, begun)["mlo_share"] == 0.5
    assert settled({"mlo_form": "own"}, begun)["mlo_path"] == FORMS["own"]["path"]
    assert settled({}, begun | {"mlo_form": "paper"})["mlo_form"] == "paper"
