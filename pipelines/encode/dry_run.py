"""``encode --dry-run``: what would be read, computed and written, after some seconds of the work itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.encode.encode import check_out, encode
from pipelines.encode.options import EncodeOptions
from pipelines.reconstruct.dry_run import foretell


def dry_run(options: EncodeOptions) -> dict[str, str]:
    """{what: how it is}, after some seconds of the work in a temporary folder. Raises UserError as the command does."""
    check_out(options)

    def work(count: int, folder: Path) -> None:
        encode(replace(options, out=folder / "features.parquet", limit=count), quiet=True)

    return foretell(options, work)
