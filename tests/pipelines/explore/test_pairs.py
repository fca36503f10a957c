"""Pairs are found by words, sorted by figures and chosen by flags, without loading them all."""

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.explore.pairs import Pairs, top_mass
from pipelines.sources.open_source import open_source
from saliency.table.table import SaliencyTable
from tests.tiny_mae import write_maps

CAPTIONS = ["A red Dog", "a blue cat (1.5)", "two dogs, red", "nothing", "red"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    source = open_source("shapes:5")
    maps = np.full((5, 4, 4), 0.5)
    maps[:, 0, 0] = 1 + np.arange(5)  # the peak of map i is 1 + i
    maps[1] = 0  # empty
    maps[3] = 0.25  # flat
    maps[4, 1:] = maps[4, 0, 1:] = 0  # one cell
    table = SaliencyTable(write_maps(tmp_path_factory.mktemp("maps"), source, maps=maps, captions=CAPTIONS))
    return Pairs(table.keys, table.captions, table)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("dog", [0, 2]),
        ("RED dog", [0, 2]),
        (" red ", [0, 2, 4]),
        ("(1.5)", [1]),  # words, not a pattern
        (".", [1]),
        ("zebra", []),
    ],
)
def test_every_word_is_in_caption_or_key(pairs, text, found):
    assert pairs.find(text).tolist() == found


def test_a_key_is_found_by_its_parts(pairs):
    assert pairs.find(pairs.key(3)).tolist() == [3]


def test_order_and_direction(pairs):
    assert pairs.find(order="strength").tolist() == [4, 2, 0, 3, 1]
    assert pairs.find(order="strength", rising=True).tolist() == [1, 3, 0, 2, 4]
    assert pairs.find("red", order="strength").tolist() == [4, 2, 0]
    assert pairs.find(order="table", rising=True).tolist() == [4, 3, 2, 1, 0]


def test_a_pair_without_the_figure_comes_last(pairs):
    """The empty map holds no mass; a map of one cell holds it all in a quarter of its cells."""
    for rising in (False, True):
        found = pairs.find(order="mass", rising=rising).tolist()
        assert found[-1] == 1
        assert found[0 if not rising else -2] == 4


def test_flags(pairs):
    assert [pairs.flags(number) for number in range(5)] == [[], ["empty"], [], ["flat"], ["one cell"]]
    assert pairs.find(flag="empty").tolist() == [1]
    assert pairs.find(flag="one cell").tolist() == [4]
    assert pairs.find(flag="any").tolist() == [1, 3, 4]
    assert pairs.find(flag="none").tolist() == [0, 2]


def test_mass_of_the_highest_cells():
    maps = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert top_mass(maps, 0.25) == pytest.approx([(12 + 13 + 14 + 15) / 120])
    assert top_mass(maps, 0) == pytest.approx([0])
    assert top_mass(maps, 1) == pytest.approx([1])
    assert np.isnan(top_mass(np.zeros((1, 2, 2), np.float32), 0.5)).all()


def test_mistakes(pairs):
    with pytest.raises(UserError, match="can't be sorted by 'beauty'"):
        pairs.find(order="beauty")
    with pytest.raises(UserError, match="no flag 'nice'"):
        pairs.find(flag="nice")
    bare = Pairs(open_source("shapes:3").keys, None)
    assert bare.orders == {"table": "order of the source"}
    assert bare.flags(0) == []
    with pytest.raises(UserError, match="no flag"):
        bare.find(flag="empty")
