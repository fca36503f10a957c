"""Which column of a table plays which part, and its values in the form that a source keeps.

Columns are found by convention (the names that img2dataset, WebDataset, ``datasets``, LAION and COCO tables use) and
by type, so a number called ``image`` is not taken for a picture; the user may name the image and caption columns.
Keys are strings and keep their leading zeros; a caption that is missing stays null, for the consumer to reject. What
says nothing is the same in every format: null, a NaN, and where a text is wanted a dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.commandline.shared_options import Captions
from pipelines.errors import UserError

IMAGE_NAMES = (
    "image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "file_name", "image_path", "image_file",
    "path", "filepath", "file", "filename", "image_name",
)  # fmt: skip
CAPTION_NAMES = (
    "caption", "text", "captions", "txt", "sentence", "sentences", "alt_text", "alt", "title", "description", "prompt",
)  # fmt: skip
KEY_NAMES = ("key", "__key__", "id", "image_id", "file_name")
LABEL_NAMES = ("label", "labels", "class", "cls", "fine_label", "wnid")
URL_NAMES = ("url", "image_url", "image_link")
MASK_NAMES = ("mask", "mask_file_name")
BOX_NAMES = ("box",)
ORIGINAL_NAME = "source_sha256"
"""What ``prepare`` calls the sha256 of an image before it was made small."""

_WHOLE = 2.0**53
"""Up to which every whole number is a float."""


@dataclass(frozen=True)
class Roles:
    """The column that plays each part; None where no column does."""

    image: str
    caption: str | None = None
    key: str | None = None
    label: str | None = None
    url: str | None = None
    mask: str | None = None
    box: str | None = None


@dataclass(frozen=True)
class Wishes:
    """What the user asked of a source beyond its place; None leaves it to convention."""

    image_column: str | None = None
    caption_column: str | None = None
    captions: Captions = "first"
    limit: int | None = None
    split: str | None = None
    clips: bool = False
    """Whether the samples are videos."""
    allow_outside: bool = False
    """Whether files are read that a table or a stream names and that lie outside of it."""


def assign_roles(schema: pa.Schema, where: str, wishes: Wishes, *, prefer_file_name: bool = False) -> Roles:
    """The part of each column of ``schema``; ``where`` names the table in errors.

    Raises UserError if a named column does not exist or can't play its part, or if no column holds images.
    """
    image = _named(schema, wishes.image_column, _is_image, "images", where)
    if image is None:
        names = ("file_name", *IMAGE_NAMES) if prefer_file_name else IMAGE_NAMES
        image = _conventional(schema, names, _is_image)
    if image is None:
        hint = "name one with --image-column"
        if _conventional(schema, URL_NAMES, is_text) or any(name.startswith("http") for name in schema.names):
            hint = "it has only URLs: download the images with img2dataset first"
        raise UserError(f"{where} has no column known to hold images; it has {_listed(schema.names)}: {hint}")
    caption = _named(schema, wishes.caption_column, _is_caption, "text", where)
    if caption is None:
        others = [name for name in schema.names if name != image]
        rest = pa.schema([schema.field(schema.names.index(name)) for name in others])
        lists_first = [_is_text_list, _is_caption] if wishes.captions == "all" else [_is_caption]
        found = (_conventional(rest, CAPTION_NAMES, suits) for suits in lists_first)
        caption = next((name for name in found if name is not None), None)
    return Roles(
        image=image,
        caption=caption,
        key=_conventional(schema, KEY_NAMES, _is_key),
        label=_conventional(schema, LABEL_NAMES, _is_key) or _conventional(schema, LABEL_NAMES, _is_number),
        url=_conventional(schema, URL_NAMES, is_text),
        mask=_conventional(schema, MASK_NAMES, _is_image),
        box=_conventional(schema, BOX_NAMES, _is_box),
    )


def key_values(column: pa.Array) -> pa.Array:
    """The column as strings, nulls kept."""
    return pc.cast(_plain(column), pa.string())


def text_values(column: pa.Array) -> pa.Array:
    """The column as strings if it holds text, else nulls."""
    return pc.cast(_plain(column), pa.string()) if is_text(column.type) else pa.nulls(len(column), pa.string())


def caption_values(column: pa.Array, captions: Captions) -> tuple[pa.Array, NDArray[np.int64] | None]:
    """The captions as strings and, if a row may have several, the row that each belongs to.

    ``first`` takes the first of a list. ``all`` gives a row as many pairs as it has captions, in order, and a row
    without any one pair whose caption is null, so that no row is lost.
    """
    if not _is_text_list(column.type):
        return key_values(column), None
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = pc.cast(_plain(pc.list_flatten(column)), pa.string())
    starts = np.cumsum(lengths) - lengths
    if captions == "first":
        return flat.take(pa.array(starts, mask=lengths == 0)), None
    pairs = np.maximum(lengths, 1)
    rows = np.repeat(np.arange(len(lengths)), pairs)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    return flat.take(pa.array(starts[rows] + within, mask=(lengths == 0)[rows])), rows


def sample_caption(text: str | None, fields: Mapping[str, Any], wishes: Wishes) -> str | list[Any] | None:
    """The caption, or captions, of a WebDataset sample from its ``txt`` and the fields of its ``json``.

    The text comes before the fields, unless all captions are wished and the fields have a list of them.
    """
    wished = wishes.caption_column
    if wished is not None:
        caption = text if wished == "txt" else fields.get(wished)
    else:
        lists = [fields[name] for name in CAPTION_NAMES if isinstance(fields.get(name), list)]
        if wishes.captions == "all" and lists:
            caption = lists[0]
        else:
            caption = text
            if not (text or "").strip():
                found = first_field(fields, CAPTION_NAMES)
                caption = text if found is None else found
    return caption if isinstance(caption, list) else as_text(caption)


def first_field(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of these fields that is a text, a number or a list, else None."""
    found = (known(fields.get(name)) for name in names)
    return next((value for value in found if value is not None and not isinstance(value, dict)), None)


def known(value: Any) -> Any:
    """The value, where a NaN is None, in lists as well."""
    if isinstance(value, list):
        return [known(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def as_text(value: Any) -> str | None:
    """The value as text that Arrow can hold; None for null and NaN, which say nothing, and for dicts and lists."""
    if known(value) is None or isinstance(value, (dict, list)):
        return None
    # JSON may hold half of a surrogate pair, which no UTF-8 text can.
    return str(value).encode("utf-8", "replace").decode()


def as_label(value: Any) -> int | None:
    """The value as the number of a class: of a whole number from 0 on or a truth value, None of anything else."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) <= _WHOLE)
    return int(value) if whole and value >= 0 else None


def has_fractions(column: pa.Array) -> bool:
    """Whether these are numbers that number no classes: some are not whole."""
    if not pa.types.is_floating(column.type):
        return False
    values = column.drop_null().to_numpy(zero_copy_only=False)
    values = values[~np.isnan(values)]
    return not bool(((np.abs(values) <= _WHOLE) & (values == np.trunc(values))).all())


def label_values(
    column: pa.Array, names: Sequence[str] | None = None, *, untyped: bool = False
) -> tuple[NDArray[np.int64], list[str] | None]:
    """The labels as integers, -1 where missing, and their names.

    Integers, truth values and floats that are all whole stay and take ``names`` as given; strings become indices into
    their own sorted names. In an ``untyped`` column (CSV, a tar's ``.cls``) strings that all read as whole numbers are
    integers.
    """
    column = _plain(column)
    if pa.types.is_floating(column.type) and not has_fractions(column):
        column = pc.cast(pc.if_else(pc.is_nan(column), None, column), pa.int64())
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return _integers(column), list(names) if names is not None else None
    texts = pc.cast(column, pa.string())
    if untyped:
        texts = pc.utf8_trim_whitespace(texts)
        texts = pc.if_else(pc.equal(texts, ""), None, texts)
        if pc.all(pc.match_substring_regex(texts, r"^-?(0|[1-9][0-9]{0,17})(\.0+)?$")).as_py():
            return _integers(pc.cast(pc.replace_substring_regex(texts, r"\.0+$", ""), pa.int64())), None
    found = sorted(set(texts.unique().to_pylist()) - {None})
    return _integers(pc.index_in(texts, value_set=pa.array(found, pa.string()), skip_nulls=True)), found


def to_array(values: Sequence[Any]) -> pa.Array:
    """Python values as one Arrow array, null where one is NaN.

    A mixture of texts and lists becomes lists, any other mixture becomes texts.
    """
    values = [known(value) for value in values]
    try:
        return pa.array(values, from_pandas=False)
    except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
        if any(isinstance(value, list) for value in values):
            return pa.array([_texts(value) for value in values], pa.list_(pa.string()))
        return pa.array([as_text(value) for value in values], pa.string())


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds encoded bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_embedded(kind: pa.DataType) -> bool:
    """Whether a column of this type is the ``{bytes, path}`` struct in which ``datasets`` keeps images."""
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    return "bytes" in fields and (is_bytes(fields["bytes"]) or pa.types.is_null(fields["bytes"]))


def _named(schema: pa.Schema, name: str | None, suits: Any, what: str, where: str) -> str | None:
    if name is None:
        return None
    if name not in schema.names:
        name = next((other for other in schema.names if other.strip() == name), name)
    if name not in schema.names:
        raise UserError(f"{where} has no column {name!r}; it has {_listed(schema.names)}")
    kind = schema.field(schema.names.index(name)).type
    if not suits(kind):
        raise UserError(f"{where}: column {name!r} holds {kind}, not {what}; the columns are {_listed(schema.names)}")
    return name


def _conventional(schema: pa.Schema, conventions: Iterable[str], suits: Any) -> str | None:
    """The first fitting column in the order of the conventions; case and blanks around a name do not matter."""
    fitting: list[str] = [name for name, kind in zip(schema.names, schema.types, strict=True) if suits(kind)]
    folded = {name.strip().casefold(): name for name in reversed(fitting)}
    for name in conventions:
        if name in fitting:
            return name
        if name in folded:
            return folded[name]
    return None


def _is_image(kind: pa.DataType) -> bool:
    return is_text(kind) or is_bytes(kind) or is_embedded(kind)


def _is_text_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and is_text(kind.value_type))


def _is_caption(kind: pa.DataType) -> bool:
    return is_text(kind) or _is_text_list(kind) or pa.types.is_null(kind)


def _is_key(kind: pa.DataType) -> bool:
    return is_text(kind) or bool(pa.types.is_integer(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_floating(kind))


def _is_box(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)))


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _integers(column: pa.Array) -> NDArray[np.int64]:
    filled = pc.fill_null(pc.cast(column, pa.int64()), -1)
    return np.asarray(filled.to_numpy(zero_copy_only=False), np.int64)


def _texts(value: Any) -> list[str | None] | None:
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    return [as_text(item) for item in values]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) if names else "no columns"
