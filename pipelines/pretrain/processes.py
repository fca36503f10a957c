"""The processes of one training as its user meets them: a mistake is one line, whichever of them finds it first.

All processes stop at a mistake, none waits for another that has stopped, and torchrun's restarts are not spent on what
another start can't mend. A process that dies is another matter: then torchrun starts all of them anew, if it was told
to, and they go on from the last checkpoint.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from mae.distributed import World, give_up, is_hopeless, is_lost_connection, open_world
from mae.training.checkpoints import list_checkpoints
from mae.training.spread import check_parts
from pipelines.errors import StoppedError, ToldElsewhereError, UserError, user_errors
from pipelines.pretrain.options import PretrainOptions

T = TypeVar("T")


class LostProcessError(UserError):
    """Another process of the training is gone; not a mistake, and another start may mend it."""


@contextmanager
def one_world(device: str | None) -> Iterator[World]:
    """The processes that torchrun started, or the only one there is, for training on ``device``.

    A UserError inside must have passed through :func:`agreed`. The main process's is to be printed; the others' are
    ToldElsewhereError, and come when the main process ends, because torchrun stops all processes at the first failure.
    """
    if is_hopeless():
        raise ToldElsewhereError("an earlier start of this launch ended by a mistake")
    with ExitStack() as stack:
        with user_errors():
            world = stack.enter_context(open_world(device))
        try:
            yield world
        except ToldElsewhereError:
            world.wait_until_told()
            raise
        except UserError:
            give_up()
            if world.is_main:
                atexit.register(world.say_told)
            raise
        except StoppedError as error:
            if not world.is_main:
                world.wait_until_told()
                raise ToldElsewhereError(error) from error
            atexit.register(world.say_told)
            raise
        except KeyboardInterrupt as error:
            if world.is_main:
                raise
            raise ToldElsewhereError("interrupted") from error
        except RuntimeError as error:
            if world.size == 1 or not is_lost_connection(error):
                raise
            raise LostProcessError(
                "another process of this training is gone (see its own message); torchrun --max-restarts 3 would go "
                "on from the last checkpoint"
            ) from error


@contextmanager
def agreed(world: World) -> Iterator[None]:
    """A UserError of any process inside becomes one of all of them; every process must pass here."""
    error = None
    try:
        yield
    except UserError as found:
        error = found
    if world.size == 1:
        if error is not None:
            raise error
        return
    messages = [message for message in world.gather(None if error is None else str(error)) if message is not None]
    if messages:
        raise (UserError if world.is_main else ToldElsewhereError)(messages[0]) from error


def in_turn(world: World, work: Callable[[], T]) -> T:
    """``work`` done by the main process first, then by one on every other machine, then by the rest.

    What the first one leaves behind for the next time (a download, a memory-mapped copy) is not made twice at once.
    """
    results = []
    for turn in range(3 if world.size > world.local_size else 2):
        with agreed(world):
            if turn == (0 if world.is_main else 1 if world.local_rank == 0 or world.size == world.local_size else 2):
                results.append(work())
    return results[0]


def check_processes(options: PretrainOptions, world: World) -> None:
    """UserError for options that do not suit the number of processes."""
    if options.batch_size % world.size:
        raise UserError(
            f"--batch-size {options.batch_size} can't be shared out evenly among {world.size} processes: it counts the "
            f"images of all of them, so give a multiple of {world.size}"
        )
    if not options.shard_model:
        return
    if world.size == 1:
        raise UserError("--shard-model shares a model out to several processes: start them with torchrun")
    if options.compile:
        raise UserError("--compile and --shard-model were never tried together, and are refused: leave one out")
    with user_errors():
        check_parts(world.device(options.device))


def newest_of_all(folder: Path, world: World) -> Path | None:
    """The newest checkpoint of a run, None if there is none; UserError where processes see different ones."""
    checkpoints = list_checkpoints(folder)
    names = world.gather(checkpoints[-1].name if checkpoints else None)
    if len(set(names)) > 1:
        seen = sorted({name or "none" for name in names})
        raise UserError(
            f"the processes see different checkpoints in --out {folder} ({', '.join(seen)}): it must lie on storage "
            "that all machines share"
        )
    return checkpoints[-1] if checkpoints else None
