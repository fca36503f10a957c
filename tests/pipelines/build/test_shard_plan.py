import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.build.options import parse_part
from pipelines.build.shard_plan import Plan, shard_name


@given(st.integers(0, 200), st.integers(1, 20), st.integers(1, 12))
def test_the_parts_make_every_shard_once_and_the_shards_take_every_pair_once(pairs, shard_size, parts):
    whole = Plan(pairs, shard_size)
    dealt = [number for part in range(1, parts + 1) for number in Plan(pairs, shard_size, (part, parts)).own()]
    assert sorted(dealt) == list(whole.own()) == list(range(whole.count))
    assert [row for number in whole.own() for row in whole.rows(number)] == list(range(pairs))
    assert whole.size(whole.own()) == pairs
    sizes = [len(list(Plan(pairs, shard_size, (part, parts)).own())) for part in range(1, parts + 1)]
    assert max(sizes) - min(sizes) <= 1


def test_what_is_left_are_the_shards_whose_files_are_not_made():
    plan = Plan(95, 10, (2, 3))
    assert list(plan.own()) == [1, 4, 7]
    assert list(plan.left({plan.name(4), plan.name(0)})) == [1, 7]
    assert plan.name(9) == "train-00009-of-00010.parquet"
    assert plan.manifest == "manifest-00002-of-00003.json"


def test_a_stream_goes_on_behind_its_last_shard():
    plan = Plan(None, 10)
    done = {shard_name(number, None) for number in range(4)}
    assert next(plan.left(done)) == 4
    assert plan.count is None
    assert plan.size([1]) is None


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "/3", "-1/3", "1/0", "a/b", "1/2/3", "1.0/3", "²/3"])
def test_a_part_that_is_none(text):
    with pytest.raises(ValueError, match="is not i/n"):
        parse_part(text)


def test_a_part():
    assert parse_part("3/8") == (3, 8)
