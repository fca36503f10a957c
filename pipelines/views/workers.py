"""Batches that worker processes make, and what can go wrong between them and the main process.

A worker hands a batch over in shared memory. PyTorch copies it there in a thread of the worker, where an error only
prints a trace, and the main process would wait for the batch for ever. Here the worker copies it first, so that its
error reaches the main process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipelines.errors import UserError

_NO_SHARED_MEMORY = ("shared memory", "Bus error", "</torch_")


@dataclass(frozen=True)
class WorkerBatches:
    """What a loader gives; iterating raises UserError where the workers have no shared memory, or die."""

    loader: DataLoader[Any]

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.loader
        except RuntimeError as error:
            if any(sign in str(error) for sign in _NO_SHARED_MEMORY):
                raise UserError(
                    "the loader's workers have no shared memory left (/dev/shm): give fewer --workers, --workers 0 to "
                    "do without, or more of it (docker run --shm-size 8g)"
                ) from error
            if "killed by signal: Killed" in str(error) or "exited unexpectedly" in str(error):
                raise UserError(
                    "a worker of the loader was killed (out of memory?): give fewer --workers, then run the same "
                    "command again (pretrain: with --resume)"
                ) from error
            raise

    def __len__(self) -> int:
        return len(self.loader)


def worker_batches(
    data: Dataset[Any],
    order: Iterable[list[Any]] | None = None,
    *,
    workers: int,
    collate: Callable[[list[Any]], Any],
    batch_size: int = 1,
    pin: bool = False,
) -> WorkerBatches:
    """The batches of ``order``, or ``batch_size`` samples at a time, made by ``workers`` processes (0: this one)."""
    return WorkerBatches(
        DataLoader(
            data,
            batch_sampler=order,
            batch_size=1 if order is not None else batch_size,
            num_workers=workers,
            collate_fn=_Shared(collate),
            pin_memory=pin,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_outlive_signals,
        )
    )


@dataclass(frozen=True)
class _Shared:
    """Makes a batch and, in a worker, moves its tensors to shared memory."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        batch = self.collate(items)
        if get_worker_info() is not None:
            _share(batch)
        return batch


def _share(value: Any) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()  # type: ignore[no-untyped-call]
    elif is_dataclass(value):
        _share(list(vars(value).values()))
    elif isinstance(value, list | tuple):
        for item in value:
            _share(item)


def _outlive_signals(_worker: int) -> None:
    """Where the main process finishes its step at a signal that all processes get, its workers go on meanwhile."""
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        if callable(signal.getsignal(getattr(signal, name))):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
