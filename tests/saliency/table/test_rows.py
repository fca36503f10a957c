import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from saliency.table.rows import later_occurrences, pair_hashes, read_rows


@pytest.fixture
def files(tmp_path):
    """Three files of 7, 0 and 5 rows in row groups of 3."""
    paths = []
    for number, values in enumerate((range(7), range(0), range(7, 12))):
        paths.append(tmp_path / f"{number}.parquet")
        columns = {"n": pa.array(list(values), pa.int64()), "text": pa.array([f"row {n}" for n in values], pa.string())}
        pq.write_table(pa.table(columns), paths[-1], row_group_size=3)
    return paths


@pytest.mark.parametrize("rows", [[], [0], [11, 0, 6, 7], [3, 3, 2, 3], list(range(12))])
def test_rows_come_in_the_order_asked_for(files, rows):
    table = read_rows(files, np.asarray(rows, np.int64), ["text", "n"])
    assert table.column_names == ["text", "n"]
    assert table["n"].to_pylist() == rows
    assert table["text"].to_pylist() == [f"row {n}" for n in rows]


@pytest.mark.parametrize("row", [-1, 12])
def test_a_row_that_is_not_there_is_a_bug(files, row):
    with pytest.raises(IndexError):
        read_rows(files, np.asarray([0, row]), ["n"])


def test_only_the_row_groups_needed_are_read(files, monkeypatch):
    read, original = [], pq.ParquetFile.read_row_group

    def counted(self, number, **options):
        read.append(number)
        return original(self, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    read_rows(files, np.asarray([4, 5, 10]), ["n"])
    assert read == [1, 1]


def test_hashes_are_those_of_key_and_caption():
    keys, captions = ["a", "ü", "a", "a\x1f"], ["b", None, "c", ""]
    hashes = pair_hashes(pa.array(keys), pa.chunked_array([captions[:1], captions[1:]], pa.string()))
    expected = [f"{k}\x1f{c or ''}".encode() for k, c in zip(keys, captions, strict=True)]
    assert hashes.to_pylist() == [xxhash.xxh3_128_digest(value) for value in expected]
    assert hashes.type == pa.binary(16)
    assert pair_hashes(pa.array(["a", "a"])).to_pylist() == [xxhash.xxh3_128_digest(b"a")] * 2
    assert len(pair_hashes(pa.array([], pa.string()), pa.array([], pa.string()))) == 0


def test_later_occurrences_are_those_of_a_loop():
    values = np.random.default_rng(0).integers(0, 30, 80)
    seen, expected = set(), []
    for i, value in enumerate(values.tolist()):
        expected += [i] if value in seen else []
        seen.add(value)
    assert later_occurrences(pair_hashes(pa.array([str(value) for value in values]))).tolist() == expected
