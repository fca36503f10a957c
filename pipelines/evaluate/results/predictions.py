"""What each test image was taken for: a table for ``--predictions``, and differences that are paired by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mae.evaluation.intervals import paired_interval
from pipelines.evaluate.data import Parts
from pipelines.evaluate.results.outcome import Measured, Outcome
from saliency.files import opened_atomically

Found = Sequence[tuple[str, Mapping[str, Sequence[Outcome | Measured]]]]
"""By encoder and protocol what each of the seeds gave."""

_SCHEMA = pa.schema(
    {"key": pa.string(), "class": pa.string()}
    | {name: pa.dictionary(pa.int32(), pa.string()) for name in ("encoder", "protocol")}
    | {"seed": pa.int64(), "predicted": pa.string()}
)


def write_predictions(path: Path, found: Found, seeds: Sequence[int], parts: Parts) -> None:
    """A row for each test image, encoder, protocol with classes, and seed: CSV where ``path`` ends in that, or Parquet.

    ``predicted`` is null for an image that could not be read.
    """
    keys, names = parts.test.source.keys, pa.array(parts.names)
    truth = names.take(pa.array(parts.test.labels))

    def tables() -> Iterator[pa.Table]:
        for encoder, by_protocol in found:
            for protocol, outcomes in by_protocol.items():
                for seed, outcome in zip(seeds, outcomes, strict=True):
                    if isinstance(outcome, Outcome):
                        predicted = names.take(pa.array(outcome.predicted, pa.int64()))
                        of_all = (pa.repeat(value, len(keys)) for value in (encoder, protocol, seed))
                        yield pa.table([keys, truth, *of_all, predicted], names=_SCHEMA.names).cast(_SCHEMA)

    table = pa.concat_tables(tables())
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened_atomically(path) as file:
        if path.suffix == ".csv":
            pa_csv.write_csv(table, file)
        else:
            pq.write_table(table, file)


def difference(
    found: Sequence[Outcome], first: Sequence[Outcome], labels: NDArray[np.int64]
) -> dict[str, float] | None:
    """The ``accuracy`` of one encoder less that of the first, paired by test image, and its 95 % ``interval``.

    Both have the same seeds. Images that one of them could not read are left out. None for fewer than two, and where
    the predictions are not known.
    """
    if any(outcome.predicted is None for outcome in (*found, *first)):
        return None
    both = _right(found, labels) - _right(first, labels)
    both = both[np.isfinite(both)]
    return {"accuracy": float(both.mean()), "interval": paired_interval(both)} if len(both) > 1 else None


def _right(found: Sequence[Outcome], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """With which share of the seeds each image was right, 0..1 [n]; NaN where it could not be read."""
    predicted = np.asarray([outcome.predicted for outcome in found], np.float64)
    return np.asarray(np.where(np.isnan(predicted), np.nan, predicted == labels).mean(0))
