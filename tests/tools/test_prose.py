import pytest

from tools import prose


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A short sentence. Another one.", []),
        ("One " + "word " * 36 + "ends.", ["words: One word"]),
        ("The run goes on.", ["'goes on'"]),
        ("It stands beside the map.", ["'beside'"]),
        ("This is a very unique and very very good thing.", ["unique"]),
        ("```\nthe run goes on\n```\n\n| goes on | told of |\n\n> It goes on.\n\n`goes on`", []),
    ],
)
def test_what_breaks_a_rule(tmp_path, monkeypatch, text, found):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# Heading\n\n{text}\n")
    lines = list(prose.found_in(page))
    assert bool(lines) == bool(found)
    for each in found:
        assert any(each in line for line in lines), lines


def test_sentences_are_counted_without_code_and_links():
    text = "Use `a b c`, or [the guide](x.md). Then stop.\n\n- An item\n- Another item"
    assert [prose.words(each) for each in prose.sentences(text)] == [5, 2, 2, 2]


def test_the_pages_keep_the_rules():
    assert prose.main([]) == 0
