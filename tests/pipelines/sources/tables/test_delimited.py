"""Quote marks in CSV and TSV: what is quoted is unquoted, other marks are characters, and no row swallows another."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.sources.open_source import open_source
from pipelines.sources.tables.delimited import read_delimited


def rows(tmp_path, text, name="t.tsv"):
    (tmp_path / name).write_bytes(text.encode())
    table = read_delimited(tmp_path / name)
    return [list(row.values()) for row in table.to_pylist()]


HEADER = "caption\tfile_name\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['"amazing view\t0', "a dog\t1", '"the end\t2', "a cat\t3"], ['"amazing view', "a dog", '"the end', "a cat"]),
        (['"amazing view\t0', "a dog\t1", 'the end"\t2'], ['"amazing view', "a dog", 'the end"']),
        (['"amazing view\t0', '"a\tb"', 'the end"\t2'], ['"amazing view', '"a', 'the end"']),
        (['say "hi"\t0', '5" wide\t1', '"\t2', '""\t3', '"""\t4'], ['say "hi"', '5" wide', '"', "", '"""']),
        (['"a ""quoted"" dog"\t0'], ['a "quoted" dog']),
        (['"a tab\there"\t0', "b\t1"], ["a tab\there", "b"]),
        (['"two\nlines"\t0', "b\t1"], ["two\nlines", "b"]),
        (['"two\r\n\r\nlines"\t0', "b\t1"], ["two\r\n\r\nlines", "b"]),
    ],
)
def test_tsv(tmp_path, lines, expected):
    found = rows(tmp_path, HEADER + "\n".join(lines) + "\n")
    assert [row[0] for row in found] == expected
    assert rows(tmp_path, HEADER + "\n".join(lines)) == found, "with or without a last line end"


def test_a_quoted_last_field_of_a_tsv_may_have_lines(tmp_path):
    assert rows(tmp_path, 'file_name\tcaption\n0\t"one\ntwo"\n1\tb\n') == [["0", "one\ntwo"], ["1", "b"]]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['"amazing view,0', "a dog,1", '"the end,2', "a cat,3"], ['"amazing view', "a dog", '"the end', "a cat"]),
        (['"amazing view,0', "a dog,1", '12" wide,2', '"x, y",3'], ['"amazing view', "a dog", '12" wide', "x, y"]),
        (['"one, two\nthree",0', "b,1"], ["one, two\nthree", "b"]),
        (['"he said ""no"", twice",0'], ['he said "no", twice']),
    ],
)
def test_csv(tmp_path, lines, expected):
    assert [row[0] for row in rows(tmp_path, "caption,file_name\n" + "\n".join(lines), "t.csv")] == expected


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_row_of_another_width_is_an_error_with_its_line(tmp_path, name):
    mark = "," if name == "t.csv" else "\t"
    (tmp_path / name).write_text(mark.join(["file_name", "caption"]) + f'\n0{mark}"a"\n\n1{mark}b{mark}c\n')
    with pytest.raises(UserError, match=rf"{name} can't be read as a table: line 4: Expected 2 columns, got 3: '1"):
        open_source(str(tmp_path / name))


def test_a_header_loses_its_blanks(tmp_path):
    for text in ("file_name , caption\n0,a\n", '"file_name"," caption "\n0,a\n', "\n\nfile_name, caption\n0,a\n"):
        (tmp_path / "t.csv").write_text(text)
        assert read_delimited(tmp_path / "t.csv").to_pylist() == [{"file_name": "0", "caption": "a"}]
    (tmp_path / "t.csv").write_text("caption, caption\na,b\n")
    with pytest.raises(ValueError, match="twice"):
        read_delimited(tmp_path / "t.csv")


def test_a_bare_nan_is_nothing_and_a_quoted_one_a_word(tmp_path):
    for quoted in ('"nan"', "banana"):
        found = rows(tmp_path, f"caption,label\nnan,NaN\n{quoted},1\n,NAN\n", "t.csv")
        assert found == [[None, None], [quoted.strip('"'), "1"], ["", "NAN"]]


def test_line_ends_and_separators_that_only_python_knows(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        text = "".join(line + end for line in ("caption\tfile_name", '"a\u2028b\x0b\x85"\t0', "c\x1e\t1"))
        assert rows(tmp_path, text) == [["a\u2028b\x0b\x85", "0"], ["c\x1e", "1"]]


cells = st.text(st.sampled_from('ab",;\n\t \r'), max_size=6)


@given(st.lists(st.tuples(cells, cells, cells), max_size=6), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@settings(max_examples=300, deadline=None)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, table, quoting):
    """Also behind a row that it would not write, which has the whole table read with more care."""
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    for odd in ("", '"a" b,c,d\r\n'):
        text = io.StringIO()
        writer = csv.writer(text, quoting=quoting, lineterminator="\r\n")
        writer.writerow(["one", "two", "three"])
        text.write(odd)
        writer.writerows(table)
        path.write_bytes(text.getvalue().encode())
        expected = [*([('"a" b', "c", "d")] if odd else []), *table]
        assert [tuple(row.values()) for row in read_delimited(path).to_pylist()] == expected


@given(st.lists(st.tuples(st.text(st.sampled_from('ab" '), max_size=8), st.integers(0, 9)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_every_line_of_a_tsv_without_quoting_is_a_row(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("tsv") / "t.tsv"
    path.write_text("caption\tfile_name\n" + "".join(f"{caption}\t{name}\n" for caption, name in table))
    assert read_delimited(path)["file_name"].to_pylist() == [str(name) for _, name in table]


def test_many_stray_quotes_take_no_longer_than_many_rows(tmp_path):
    lines = "".join(f'"open {i}\t{i}\nx"\t"y\n' for i in range(20_000))
    assert len(rows(tmp_path, HEADER + lines)) == 40_000
