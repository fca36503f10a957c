"""``evaluate --require``: what an encoder must come to against the first ``--beside``, for scripts."""

from typing import NamedTuple


class Requirements(NamedTuple):
    """Bounds on the first encoder; None where nothing is required."""

    accuracy: float | None = None
    """Percentage points that every accuracy may differ by, at least: −1 allows one point less."""
    latency: float | None = None
    """How many times as fast it has to be, at every number of threads."""
    size: float | None = None
    """How many times as small it has to be."""

    @property
    def on_device(self) -> bool:
        """Whether something else than accuracy is required."""
        return self.latency is not None or self.size is not None


def parse_requirements(text: str) -> Requirements:
    """Reads ``accuracy=-1,latency=2x,size=3x``. ValueError for a text that says something else."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        times = name in ("latency", "size")
        try:
            if name not in Requirements._fields or name in found or value.endswith("x") != times:
                raise ValueError
            found[name] = float(value.removesuffix("x"))
        except ValueError:
            raise ValueError(f"--require {text!r}: give bounds such as accuracy=-1,latency=2x,size=3x") from None
        if not abs(found[name]) < float("inf") or (times and found[name] <= 0):
            raise ValueError(f"--require {part.strip()}: that can't be met or missed")
    return Requirements(**found)
