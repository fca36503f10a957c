"""Draws the README's picture from a finished demo: ``python tools/readme_picture.py demo-out``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines.demo.demo import demo_sheet  # noqa: E402
from pipelines.plots import contact_sheet  # noqa: E402

SCENES = (1, 3, 7)
"""Which of the demo's scenes are shown: two backgrounds of stripes, and one without edges."""


def main(demo: Path) -> None:
    """Writes ``docs/pictures/demo.png``."""
    columns = {name: [values[scene] for scene in SCENES] for name, values in demo_sheet(demo).items()}
    contact_sheet(ROOT / "docs" / "pictures" / "demo.png", columns)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
