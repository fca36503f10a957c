"""The progress of a build: pairs, pairs/s and time left, and the share of time the model was starved of images."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pipelines.build.shard_plan import Plan
from pipelines.build.stages import Stages
from pipelines.progress import memory_figure, progress_bar
from saliency.table.manifest import Manifest


class Progress:
    """While entered, a bar on stderr; calling it with a number says that so many pairs are done."""

    def __init__(self, plan: Plan, manifest: Manifest, stages: Stages, *, device: Any, quiet: bool) -> None:
        total = None if plan.count is None else plan.size(plan.own())
        self._stages, self._device = stages, device
        self._bar = progress_bar(total=total, done=manifest.taken, unit="pairs", quiet=quiet)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def __call__(self, pairs: int) -> None:
        """So many more pairs are done."""
        if not self._bar.disable:
            figures = {"starved": f"{self._stages.starved:.0%}"} | memory_figure(self._device)
            self._bar.set_postfix(figures, refresh=False)
        self._bar.update(pairs)
