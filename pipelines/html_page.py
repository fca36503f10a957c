"""A report in Markdown as one HTML file that needs nothing beside it: its pictures are in it, and nothing is loaded."""

from __future__ import annotations

import base64
from pathlib import Path

from saliency.files import write_text_atomically

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --page: #fff; --line: #d5d8dc; --faint: #f3f4f6; --link: #0b57d0 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e8; --page: #17191c; --line: #3b4046; --faint: #22252a; --link: #8ab4f8 }
}
body { color: var(--text); background: var(--page); font: 16px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
a { color: var(--link) }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0 }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top }
th, code { background: var(--faint) }
code { padding: .1rem .3rem; border-radius: .2rem; overflow-wrap: anywhere }
th:empty { display: none }
img { max-width: 100%; background: #fff; padding: .5rem; border-radius: .3rem; box-sizing: border-box }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def write_html(path: Path, markdown: str) -> None:
    """Write a page of Markdown as HTML; see :func:`html_of`."""
    write_text_atomically(path, html_of(markdown, path.parent, path.stem))


def html_of(markdown: str, folder: Path, title: str) -> str:
    """A page of Markdown as HTML, with the pictures that it names, which lie in the folder.

    HTML in the text is shown as text. A picture that is not there is left as its description. The title is that of the
    text, if it has one.
    """
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)

    def inline(token: Token) -> None:
        source = str(token.attrs.get("src", ""))
        picture = folder / source
        if token.type == "image" and picture.is_file():
            data = base64.b64encode(picture.read_bytes()).decode()
            token.attrs["src"] = f"data:image/{picture.suffix.lstrip('.')};base64,{data}"
        for child in token.children or ():
            inline(child)

    for token in tokens:
        inline(token)
    body = parser.renderer.render(tokens, parser.options, {})
    title = next((line.removeprefix("# ") for line in markdown.splitlines() if line.startswith("# ")), title)
    return _PAGE.format(title=_text(title), style=_STYLE, body=body)


def _text(title: str) -> str:
    return title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
