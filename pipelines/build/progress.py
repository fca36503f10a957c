"""The progress bar of a build: pairs, pairs/s and time left, and the share of time the model was starved of images."""

from __future__ import annotations

from types import TracebackType

from tqdm import tqdm

from pipelines.build.shard_plan import Plan
from pipelines.build.stages import Stages
from saliency.table.manifest import Manifest


class Progress:
    """While entered, a bar on stderr; calling it with a number says that so many pairs are done."""

    def __init__(self, plan: Plan, manifest: Manifest, stages: Stages, *, quiet: bool) -> None:
        total = None if plan.count is None else plan.size(plan.own())
        self._stages = stages
        self._bar = tqdm(total=total, initial=manifest.taken, unit="pair", disable=quiet, smoothing=0.1)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def __call__(self, pairs: int) -> None:
        """So many more pairs are done."""
        self._bar.set_postfix_str(f"starved {self._stages.starved:.0%}", refresh=False)
        self._bar.update(pairs)
