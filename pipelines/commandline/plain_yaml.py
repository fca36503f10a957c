"""YAML of strangers: names, lists and plain values, and nothing else that YAML can do.

What is written is what is meant: ``1e-3`` is a number, and ``0:0.5`` or a date is a text, which YAML would take for
minutes and for a day. Tags, anchors and their aliases, which a few lines can multiply to any size, and names that are
there twice are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from saliency.files import read_regular
from saliency.shown import one_line

_LARGEST = 1 << 16  # bytes, or characters; more takes yaml seconds
_DEEPEST = 16  # brackets in brackets
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})$")
_NUMBER = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,4})?$|[-+]?\.(?:inf|Inf|INF)$"
)


def read_yaml(path: Path) -> Any:
    """What a file says. ValueError, one line that does not name the file, if it can't be read or is not such YAML."""
    try:
        return parse_yaml(read_regular(path, _LARGEST).decode())
    except OSError as error:
        raise ValueError(f"it can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError("it can't be read: it is not UTF-8") from error


def parse_yaml(text: str) -> Any:
    """What a text says. ValueError, one line."""
    if len(text) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST:,} characters")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"it is not YAML{line}: {one_line(error.problem or error.context, 200)}") from error
    except yaml.YAMLError as error:  # of a sign that no text has
        raise ValueError(f"it is not YAML: {one_line(error, 200)}") from error


class _Loader(yaml.SafeLoader):
    """Mappings, sequences and scalars, of which those without quotes may be null, true or false, or numbers."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (yaml's own)
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; an error for what is refused here."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _error("anchors (&) and aliases (*) can't be used; put a text that begins so in quotes", event)
        if event.tag is not None:
            raise _error("tags (!) can't be used; put a text that begins so in quotes", event)
        if self._depth == _DEEPEST:
            raise _error(f"it is nested deeper than {_DEEPEST} times", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode) and not node.value.isascii() and re.search("[\ud800-\udfff]", node.value):
            raise _error("half of a surrogate pair is no text", event)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; an error at a name that is there twice, of which YAML would keep the last and say nothing."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _error(f"{key.value!r} is there twice", key)
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


def _error(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _number_in(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf"))


def _integer_in(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)


for _name, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (
        "bool",
        re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"),
        [*"yYnNtTfFoO"],
    ),
    ("int", _INTEGER, [*"-+0123456789"]),
    ("float", _NUMBER, [*"-+0123456789."]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer_in)
_Loader.add_constructor("tag:yaml.org,2002:float", _number_in)
