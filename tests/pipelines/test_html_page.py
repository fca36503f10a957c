"""A page holds its pictures, loads nothing, and shows markup of strangers as text."""

import base64
import re
from html.parser import HTMLParser

from PIL import Image

from pipelines.html_page import write_html


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def seen(path):
    parser = Seen()
    parser.feed(path.read_text("utf-8"))
    return parser


def test_pictures_are_inside_and_nothing_else_is_loaded(tmp_path):
    (tmp_path / "plots").mkdir()
    Image.new("RGB", (3, 2), (10, 20, 30)).save(tmp_path / "plots" / "a.png")
    write_html(
        tmp_path / "page.html", "# A & B\n\n![there](plots/a.png)\n\n![gone](plots/b.png)\n\n| x |\n| --- |\n| 1 |\n"
    )
    page = seen(tmp_path / "page.html")
    there, gone = [attrs for tag, attrs in page.tags if tag == "img"]
    assert base64.b64decode(there["src"].partition("base64,")[2]) == (tmp_path / "plots" / "a.png").read_bytes()
    assert gone == {"src": "plots/b.png", "alt": "gone"}
    assert {"table", "th", "td"} <= {tag for tag, _ in page.tags}
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "<title>A &amp; B</title>" in (tmp_path / "page.html").read_text()


def test_markup_in_the_text_stays_text(tmp_path):
    write_html(tmp_path / "page.html", "# <script>x</script>\n\n<img src=x onerror=y> [go](javascript:x)\n")
    page = seen(tmp_path / "page.html")
    assert not {"script", "img", "a"} & {tag for tag, _ in page.tags}
    assert "<img src=x onerror=y>" in page.text
    assert re.search(r"<title>&lt;script", (tmp_path / "page.html").read_text())
