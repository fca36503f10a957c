"""What every column of a published table means: the one place that card, Croissant and reference read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column: its ``type`` as the reference shows it, where G stands for the grid, and what it means."""

    name: str
    type: str
    meaning: str
    croissant: str
    """Its type in Croissant."""
    nullable: bool = False
    length: str = ""
    """Of a list: how many values it has."""

    def told(self, grid: int, slots: int = 1) -> str:
        """What it means, for so many maps of this grid a row."""
        cells = f"{grid}×{grid}" if slots == 1 else f"{slots}×{grid}×{grid}"
        return self.meaning.replace("G×G", cells)

    def size(self, grid: int, slots: int = 1) -> str:
        """How many values a list has, for so many maps of this grid a row; empty for what is no list."""
        return self.length.replace("G·G", str(slots * grid * grid))

    def shown_type(self, grid: int | None = None, slots: int = 1) -> str:
        """The type for a table of maps of some grid, or of any."""
        length = self.length if grid is None else self.size(grid, slots)
        return self.type + (f"[{length}]" if length else "") + (", may be null" if self.nullable else "")


COLUMNS = (
    Column("key", "string", "identifier of the pair in its source; unique together with `caption`", "sc:Text"),
    Column("url", "string", "address of the image, if the source gives one", "sc:URL", nullable=True),
    Column("caption", "string", "text that the map belongs to", "sc:Text"),
    Column("image_sha256", "string", "SHA-256 of the encoded image", "sc:Text"),
    Column("width", "int32", "width of the decoded image in pixels, after the EXIF orientation is applied", "cr:Int32"),
    Column("height", "int32", "height of the same image", "cr:Int32"),
    Column(
        "crop_box",
        "float32",
        "part of the image that the map covers: x0, y0, x1, y1 as fractions of width and height",
        "cr:Float32",
        length="4",
    ),
    Column(
        "saliency",
        "uint8",
        "map of G×G cells in row-major order; 255 is the largest value. A table with `slots` K has K such maps, for K "
        "equal parts of a video's time",
        "cr:UInt8",
        length="G·G",
    ),
    Column("vmin", "float32", "smallest raw value: raw value = `vmin` + `scale` · `saliency` / 255", "cr:Float32"),
    Column("scale", "float32", "largest raw value minus the smallest", "cr:Float32"),
    Column(
        "clip_score",
        "float32",
        "cosine similarity of image and caption; 0 where `clip` is `none`, as in imported maps",
        "cr:Float32",
    ),
)
"""Of the maps, in their order in the files."""

PICTURE = Column("picture", "image", "the map in colours, alone or laid over its image, as JPEG", "sc:ImageObject")
PREVIEW = (PICTURE, *(column for column in COLUMNS if column.name in ("key", "url", "caption", "clip_score")))
"""Of the preview, in their order in the file."""


def column_rows(grid: int | None = None, slots: int = 1) -> list[list[str]]:
    """The columns of the maps as rows of Markdown under a heading: name, type, meaning."""
    rows = [["column", "type", "meaning"]]
    for column in COLUMNS:
        meaning = column.meaning if grid is None else column.told(grid, slots)
        rows.append([f"`{column.name}`", column.shown_type(grid, slots), meaning])
    return rows
