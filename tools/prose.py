"""Checks the prose of README and docs: ``python tools/prose.py [--report] [PAGE…]``. docs/style.md has the rules.

A page may have no sentence of more than LONGEST words, nine in ten of its sentences have at most USUAL, it uses none of
TURNS, and proselint finds nothing in it. Code, tables and quotations are left out. In ``docs/results/``, where figures
need their conditions, sentences may be long. The exit code is 1 if a page breaks a rule. ``--report`` prints the
numbers of every page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proselint.checks import __register__ as _checks
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).resolve().parents[1]
LONGEST, USUAL = 35, 25
TURNS = {
    r"\btold of\b": "say what is shown or counted",
    r"\bgo(es)? on\b": "resumes, or continues",
    r"\bbesides?\b(?! the point)": "next to, in addition to, or against",
    r"[,;] of what\b": "name the thing",
    r"\bis (not )?told\b": "shown, or reported",
    r"\bnothing to tell apart\b": "at least two classes",
    r"\bof one's own\b": "your own",
    r"\bwhole or not at all\b": "completely or not at all",
}
"""Turns to avoid, and what to write."""
_NOT_OURS = {"needless_variants", "typography", "lexical_illusions", "spelling", "dates_times"}
"""Groups of proselint's checks that call *saliency* a variant of *salience*, or look at characters."""
_STYLE = "docs/style.md"  # quotes what it warns of


def pages() -> list[Path]:
    """README, CONTRIBUTING and all of docs, but the generated pages."""
    generated = {ROOT / "docs" / "reference" / name for name in ("options.md", "python.md")}
    others = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md")]
    found = [*others, *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if page not in generated and page != ROOT / _STYLE]


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page: of paragraphs, and of the items of lists."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1", "", text, flags=re.M | re.S)
    text = re.sub(r"^( {4,}\S.*|\|.*|#.*|>.*|<.*|!\[.*)$", "", text, flags=re.M)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]+`", "Code", text)
    for block in re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.)\s+", text, flags=re.M):
        for sentence in re.split(r"(?<=[.!?:;])[)*_]*\s+(?=[A-Z0-9*_(\"“])", " ".join(block.split())):
            if re.search(r"[A-Za-z]{2}", sentence):
                yield sentence


def words(sentence: str) -> int:
    """The words of a sentence, of which signs and single numbers are none."""
    return len(re.findall(r"[A-Za-z][\w'’.-]*", sentence))


def found_in(page: Path) -> Iterator[str]:
    """What breaks a rule on a page, a line each."""
    text, name = page.read_text("utf-8"), page.relative_to(ROOT).as_posix()
    prose = list(sentences(text))
    lengths = sorted(words(sentence) for sentence in prose)
    if "results" not in page.parts:
        for sentence in prose:
            if words(sentence) > LONGEST:
                yield f"{name}: {words(sentence)} words: {sentence[:100]}…"
        if lengths and usual(lengths) > USUAL:
            yield f"{name}: a tenth of the sentences have {usual(lengths)} words or more"
    for sentence in prose:
        for turn, better in TURNS.items():
            if match := re.search(turn, sentence, re.I):
                yield f"{name}: {match[0]!r} ({better}): {sentence[max(0, match.start() - 40) : match.end() + 40]}"

    for found in LintFile(name, "\n\n".join(prose)).lint(_proselint()) if prose else ():
        yield f"{name}: {found.check_result.message}"


def _proselint() -> Any:
    registry = CheckRegistry()
    if not registry.checks:
        registry.register_many(_checks)
    kept = {name: asked and name not in _NOT_OURS for name, asked in DEFAULT["checks"].items()}
    return {**DEFAULT, "checks": kept}


def usual(lengths: list[int]) -> int:
    """The 90th percentile of sorted lengths."""
    return lengths[int(0.9 * (len(lengths) - 1))]


def main(arguments: list[str]) -> int:
    """Prints what breaks a rule; the exit code."""
    chosen = [Path(each).resolve() for each in arguments if not each.startswith("-")] or pages()
    if "--report" in arguments:
        for page in chosen:
            text = page.read_text("utf-8")
            lengths = sorted(words(sentence) for sentence in sentences(text)) or [0]
            headings = len(re.findall(r"^#+ ", re.sub(r"```.*?```", "", text, flags=re.S), re.M))
            name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name
            numbers = f"p90 {usual(lengths):3}  longest {lengths[-1]:3}"
            print(f"{len(text.split()):6} words {headings:4} headings  {numbers}  {name}")
        return 0
    lines = [line for page in chosen for line in found_in(page)]
    print("\n".join(lines) if lines else f"{len(chosen)} pages: no sentence is too long, no turn is to be avoided")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
