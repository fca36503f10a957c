"""The judges of one evaluation: each protocol's data is opened once, and only if the protocol is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipelines.evaluate.cells import Cells
from pipelines.evaluate.data import open_data
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.measured import Measured
from pipelines.evaluate.options import LABELLED, EvaluateOptions
from pipelines.evaluate.outcome import Outcome
from pipelines.evaluate.protocols.classify import Judge
from pipelines.evaluate.protocols.judging_further import OcclusionJudge, PropagateJudge, SegmentJudge
from pipelines.evaluate.protocols.occlusion import occlusion_row
from pipelines.views.clip_views import ClipShape


class Panel:
    """Opens what the protocols need, and judges encoders by them. Raises UserError.

    ``names`` are the classes': those of the labels, or else of the masks. With ``clip`` what is judged on are videos.
    """

    def __init__(
        self, options: EvaluateOptions, cells: Cells, quiet: bool = False, clip: ClipShape | None = None
    ) -> None:
        self.options, self.clip, wanted = options, clip, options.protocols
        self.classes: Judge | None = None
        self.occlusion: OcclusionJudge | None = None
        self.names: list[str] = []
        if set(wanted) & set(LABELLED):
            train, test, self.names = open_data(options, clip)
            self.classes = Judge(train, test, self.names, options, cells, quiet)
            if "occlusion" in wanted:
                self.occlusion = OcclusionJudge(test, len(self.names), options, cells, quiet)
        self.segment = SegmentJudge(options, cells, quiet) if "segment" in wanted else None
        self.propagate = PropagateJudge(options, cells, quiet) if "propagate" in wanted else None
        if self.segment is not None and self.classes is None:
            self.names = self.segment.names

    def judge(
        self, encoders: Iterable[tuple[int, Encoder]], protocols: Sequence[str]
    ) -> dict[str, list[Outcome | Measured]]:
        """By protocol what each seed's encoder gives."""
        found: dict[str, list[Outcome | Measured]] = {protocol: [] for protocol in protocols}
        for seed, encoder in encoders:
            for protocol in protocols:
                found[protocol].append(self._judge(encoder, protocol, seed))
        return found

    def measured_row(
        self, protocol: str, found: Sequence[Measured], first: Sequence[Measured] | None = None
    ) -> dict[str, Any]:
        """What an encoder's row has of occlusion, segment or propagate; ``first`` is what another is compared with."""
        if protocol == "segment":
            assert self.segment is not None
            return self.segment.row(found)
        if protocol == "propagate":
            assert self.propagate is not None
            return self.propagate.row(found)
        return occlusion_row(found, first, self.options.shares(), self.options.seed)

    def facts(self, seed: int) -> dict[str, Any]:
        """What the result says of the images."""
        facts: dict[str, Any] = {"train_images": 0, "test_images": 0, "classes": len(self.names), "chance": None}
        if self.classes is not None:
            labels = self.classes.test.labels
            facts["train_images"], facts["test_images"] = len(self.classes.part(seed)), len(labels)
            facts["chance"] = float(np.bincount(labels).max() / len(labels))
        elif self.segment is not None:
            facts["train_images"], facts["test_images"] = len(self.segment.part(seed)), len(self.segment.test)
        elif self.propagate is not None:
            facts |= {"test": self.propagate.source.name, "test_images": len(self.propagate.source)}
        if self.clip is not None:
            facts["clip"] = {"frames": self.clip.count, "frame_stride": self.clip.stride}
        return facts | ({"occluders": self.occlusion.facts()} if self.occlusion is not None else {})

    def _judge(self, encoder: Encoder, protocol: str, seed: int) -> Outcome | Measured:
        if protocol == "segment":
            assert self.segment is not None
            return self.segment(encoder, seed)
        if protocol == "propagate":
            assert self.propagate is not None
            return self.propagate(encoder, seed)
        assert self.classes is not None
        if protocol == "occlusion":
            assert self.occlusion is not None
            known = partial(self.classes.known, encoder, seed)
            return self.occlusion(encoder, seed, known, self.classes.parts_of(encoder, seed))
        return self.classes(encoder, protocol, seed)
