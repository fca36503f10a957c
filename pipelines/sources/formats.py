"""The formats of sources, one row each: what its files are called, and what opens them.

A new format is a file with a function that opens it, a row here, a test and a line of the documentation. An opener
takes what the user typed, the files and the wishes, returns a :class:`~pipelines.sources.source.Source`, and raises
UserError for what is wrong with the place; what is wrong with one image shows when that image is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.sources.scenes.moving_scenes import open_moving_scenes
from pipelines.sources.scenes.scenes import open_scenes
from pipelines.sources.source import Source
from pipelines.sources.tables.columns import Wishes
from pipelines.sources.tables.table_files import TABLE_SUFFIXES
from pipelines.sources.tables.table_source import open_tables
from pipelines.sources.tars.tars import open_tars
from pipelines.sources.video.video_file import VIDEO_SUFFIXES
from pipelines.sources.video.videos import open_video_files


@dataclass(frozen=True)
class FileFormat:
    """Files of one kind that hold samples."""

    name: str
    """As messages call such files."""
    suffixes: Collection[str]
    """In lower case, with their dots; a source has files of one format."""
    open: Callable[[str, list[Path], Wishes], Source]
    containers: Collection[str] = ()
    """Suffixes whose files make a folder a source of this format, before images that lie in the folder as well."""
    listed: Collection[str] = ()
    """Suffixes whose files do so where the folder has nothing else."""
    has_columns: bool = True
    """Whether --image-column and --caption-column mean anything."""
    has_videos: bool = False
    """Whether its samples are videos."""


FILE_FORMATS = (
    FileFormat("videos", VIDEO_SUFFIXES, open_video_files, has_columns=False, has_videos=True),
    FileFormat("tars", (".tar",), open_tars, containers=(".tar",)),
    FileFormat(
        "Parquet, JSONL, CSV or TSV tables",
        (*TABLE_SUFFIXES, ".txt"),
        open_tables,
        containers=(".parquet",),
        listed=tuple(suffix for suffix in TABLE_SUFFIXES if suffix not in (".parquet", ".json")),
    ),
)


@dataclass(frozen=True)
class BuiltIn:
    """Samples that are drawn, and need no files."""

    open: Callable[[str, int | None, str | None], Source]
    """Takes what the user typed, the limit and the split."""
    has_videos: bool = False


BUILT_IN: Mapping[str, BuiltIn] = {
    "shapes:": BuiltIn(open_scenes),
    "shapes-video:": BuiltIn(open_moving_scenes, has_videos=True),
}
"""By how the user's text begins."""


def is_built_in(spec: str) -> bool:
    """Whether a source needs no files: the shipped CLIP was made for such ones, and anyone can draw them again."""
    return spec.startswith(tuple(BUILT_IN))
