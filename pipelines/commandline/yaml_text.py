"""YAML files of users, read with bounds: plain values, no tag that runs code, no text that multiplies when it is read.

PyYAML raises errors of many kinds for values that it can't make, such as ``!!int ''`` or the 45th of a month. Here is
the one place that knows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import UserError
from saliency.files import read_regular
from saliency.shown import one_line

LARGEST = 1 << 16
"""Bytes of a file; PyYAML takes a second for twice as many."""
MOST_VALUES = 100_000
"""Values of a file, once every alias stands for what it names."""


def read_yaml(path: Path) -> Any:
    """What a YAML file says, in plain values. UserError, in one line, for anything else."""
    try:
        text = read_regular(path, LARGEST).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """What a YAML text says, in plain values. UserError, in one line that begins with ``name``, for anything else."""
    try:
        return _plain(text)
    except RecursionError as error:
        raise UserError(f"{name} is not YAML that can be read: it is nested too deep") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {one_line(error)}") from error
    except Exception as error:  # of a value that its tag or its form promises and its text is not
        raise UserError(f"{name} holds a value that can't be read: {one_line(error)}") from error


def _plain(text: str) -> Any:
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    if _count(node, {}) > MOST_VALUES:
        raise yaml.YAMLError(f"it has more than {MOST_VALUES} values")
    return loader.construct_document(node)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; a YAML error for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # while it is counted: an alias to what it lies in
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in children for part in pair]
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would keep the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; a YAML error at a repeated key."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))
