"""The processes of one training: which of them this is, and how they tell each other what all must know.

``torchrun`` starts the processes and describes them in the environment. Without it there is one, which needs no
process group and never waits. Tensors travel on the backend of their device (NCCL on GPUs, gloo on CPUs); what the
hosts tell each other (indices, errors) travels on a gloo group of its own, so that no GPU is waited for.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

_PATIENCE = timedelta(hours=12)
"""How long processes wait for one that downloads or joins; one that died is noticed at once, by its connection."""
_FAREWELL = timedelta(seconds=60)
_PR_SET_PDEATHSIG = 1
_ANSWER = 10.0  # seconds
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_HOPELESS, _TOLD = "saliency-mae/hopeless", "saliency-mae/told"


@dataclass(frozen=True)
class World:
    """This process's place among the ``size`` of a training: ``rank`` of all, ``local_rank`` of its machine's."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    """How often torchrun has started all processes anew, after one of them died."""
    _hosts: Any = field(default=None, repr=False, compare=False)
    _store: Any = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's part of ``count`` things: as many as every other's, in order of rank.

        ValueError if they can't be shared out evenly.
        """
        if count % self.size:
            raise ValueError(f"{count} can't be shared out evenly among {self.size} processes")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def device(self, name: str) -> torch.device:
        """``cuda`` is the GPU of this process; ValueError for one GPU named for several processes."""
        device = torch.device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if ":" in name:
            raise ValueError(f"--device {name} is one GPU for {self.size} processes: give --device cuda")
        return torch.device("cuda", self.local_rank)

    def gather(self, thing: T) -> list[T]:
        """Every process's thing, in order of rank; it must be picklable, and small."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing, group=self._hosts)
        return cast("list[T]", found)

    def gather_array(self, array: NDArray[np.int64]) -> NDArray[np.int64]:
        """Every process's array of one shape, [size, …]."""
        return self._stack(torch.from_numpy(array), self._hosts).numpy() if self.size > 1 else array[None]

    def gather_tensor(self, tensor: Tensor) -> Tensor:
        """Every process's tensor of one shape, [size, …], on its device and without waiting for it."""
        return self._stack(tensor, self._hosts if tensor.device.type == "cpu" else None)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, on its device and without waiting for it; changes it in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """As :meth:`sum`, the highest of each element."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def _stack(self, tensor: Tensor, group: Any) -> Tensor:
        if self.size == 1:
            return tensor[None]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous(), group=group)
        return torch.stack(found)

    def say_told(self) -> None:
        """The main process has said all it had to say."""
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(_TOLD, "")

    def wait_until_told(self) -> None:
        """Waits for :meth:`say_told`: torchrun ends all processes as soon as it sees the first one fail."""
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.wait([_TOLD], _FAREWELL)


@contextmanager
def open_world(device: str | None) -> Iterator[World]:
    """The world that the environment describes, for training on ``device`` (None: GPUs where there are any).

    Where there are several processes, their group exists within it. ValueError for more processes than GPUs, or for an
    environment that describes no world.
    """
    world = _from_environment()
    on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    if on_gpu and world.size > 1:
        if world.local_size > torch.cuda.device_count():
            raise ValueError(
                f"{world.local_size} processes on a machine with {torch.cuda.device_count()} GPUs: give torchrun "
                f"--nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(world.local_rank)
    if world.size == 1:
        yield world
        return
    _end_with_launcher()
    # torchrun's store outlives a start, and with it the addresses of processes that are gone
    prefix = f"saliency-mae/start-{world.restarts}"
    store = dist.PrefixStore(prefix, next(rendezvous("env://"))[0])  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=world.rank, world_size=world.size)
    try:
        yield replace(world, _hosts=dist.new_group(backend="gloo", timeout=_PATIENCE), _store=store)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _end_with_launcher() -> None:
    """SIGTERM comes when torchrun itself is killed; without it the processes would train on, and nobody would know.

    One that was killed before this could be asked for is missed at its store, for which torch would wait half an hour.
    ValueError then.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        try:
            socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), _ANSWER).close()
        except ConnectionRefusedError as error:
            raise ValueError("torchrun has ended, which started this process") from error
        except OSError:  # a busy network is torch's to wait for
            return


def is_hopeless() -> bool:
    """Whether an earlier start of this launch ended by a mistake, which another start can't mend."""
    store = _launcher_store()
    return store is not None and bool(store.check([_HOPELESS]))


def give_up() -> None:
    """Makes :func:`is_hopeless` true for the starts that follow, where torchrun keeps a store that outlives them."""
    store = _launcher_store()
    if store is not None:
        store.set(_HOPELESS, "")


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL communicator was aborted")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _from_environment() -> World:
    given = [name for name in _NAMES if name in os.environ]
    if "RANK" not in given or "WORLD_SIZE" not in given:
        return World()
    if len(given) < len(_NAMES) and os.environ["WORLD_SIZE"] != "1":
        missing = ", ".join(name for name in _NAMES if name not in given)
        raise ValueError(f"the environment has RANK and WORLD_SIZE but not {missing}: start the processes by torchrun")
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    names["restarts"] = "TORCHELASTIC_RESTART_COUNT"
    return World(**{field: int(os.environ[name]) for field, name in names.items() if name in os.environ})


def _launcher_store() -> Any:
    """The store of torchrun itself, which outlives the processes it starts; None where there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=20))  # type: ignore[attr-defined]
    except (KeyError, RuntimeError):
        return None
