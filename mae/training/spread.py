"""How a model in training lies on the processes: whole in one, a copy in each (DDP), or a part in each (FSDP2).

All three give the loss of this process's images, average gradients over the processes when the last batch of a step
goes backwards, and turn into and come from the same whole tensors, so a checkpoint does not tell how it was made.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from mae.distributed import World
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder


class Whole:
    """One process has the model for itself."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        self.model = model
        self.loss: nn.Module = _Loss(model)
        """Images, their mask, what is decoded of it, their grid → the mean loss of these images, scalar; with ``each``
        the error of every decoded patch, and with ``visible`` of every visible one before them."""

    def averaging(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a batch: gradients are averaged over the processes at the ``last`` one."""
        return nullcontext()

    def agree(self, flags: Tensor) -> Tensor:
        """Flags 0 or 1 of this process's gradients or weights as those of all processes."""
        return flags

    def whole_model(self) -> MaskedAutoencoder:
        """The model with all its weights; to be called by all processes, and of use in the main one alone."""
        return self.model

    def whole_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimiser's state with whole tensors; to be called by all processes, of use in the main one alone."""
        return state

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put whole weights into the model."""
        self.model.load_state_dict(weights)

    def parts_of(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Undoes :meth:`whole_state` for the optimiser that will load it."""
        return state


class Copies(Whole):
    """Every process has a copy of the model; gradients are exchanged while the backward pass still runs."""

    def __init__(self, model: MaskedAutoencoder, world: World) -> None:
        super().__init__(model)
        # said of a token's gradient [1, 1, D], whose strides differ only where there is nothing to step over
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.loss = nn.parallel.DistributedDataParallel(self.loss, gradient_as_bucket_view=True)

    def averaging(self, last: bool) -> AbstractContextManager[Any]:  # noqa: D102
        return nullcontext() if last else self.loss.no_sync()  # type: ignore[operator]


class Parts(Whole):
    """Every process has a part of each parameter, gradient and moment, and fetches a block's others when it needs them.

    ValueError where this torch can't do that on the device.
    """

    def __init__(self, model: MaskedAutoencoder, world: World) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(model)
        self._world = world
        check_parts(model.mask_token.device)
        mesh = init_device_mesh(model.mask_token.device.type, (world.size,))
        for block in (*model.blocks, *model.decoder_blocks):
            fully_shard(block, mesh=mesh)
        fully_shard(self.loss, mesh=mesh)

    def averaging(self, last: bool) -> AbstractContextManager[Any]:  # noqa: D102
        self.loss.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def agree(self, flags: Tensor) -> Tensor:  # noqa: D102
        return self._world.max(flags.to(torch.uint8))

    def whole_model(self) -> MaskedAutoencoder:  # noqa: D102
        with torch.device("meta"):
            model = type(self.model)(**self.model._hub_mixin_config)  # type: ignore[arg-type]
        weights = {name: self._whole(tensor) for name, tensor in self.model.state_dict().items()}
        if self._world.is_main:
            model.load_state_dict(weights, assign=True)
        return model

    def whole_state(self, state: dict[str, Any]) -> dict[str, Any]:  # noqa: D102
        moments = {
            number: {name: self._whole(value) for name, value in moments.items()}
            for number, moments in state["state"].items()
        }
        return state | {"state": moments}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:  # noqa: D102
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(_part(weights[name], tensor))

    def parts_of(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:  # noqa: D102
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {
                name: _part(value, parameters[number]) if value.shape == parameters[number].shape else value
                for name, value in moments.items()
            }
            for number, moments in state["state"].items()
        }
        return state | {"state": moments}

    def _whole(self, value: Tensor) -> Tensor:
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if not self._world.is_main:
            return whole.new_empty(0)  # of the whole model there may be no room for more than one tensor at a time
        return whole.detach().to("cpu", copy=True)  # gathered tensors lie in larger ones, which can't be saved


def spread(model: MaskedAutoencoder, world: World, *, parts: bool) -> Whole:
    """The model on all processes of the world; ``parts``: no process has all of it."""
    if parts:
        return Parts(model, world)
    return Copies(model, world) if world.size > 1 else Whole(model)


def check_parts(device: torch.device) -> None:
    """ValueError where a model can't be split on this kind of device."""
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise ValueError(f"--shard-model: torch {torch.__version__} can't split a model on the CPU; a newer one can")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; all of it where it is not split."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Loss(nn.Module):
    """A model as what is wrapped: a compiled model stays as it is inside."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        images: Tensor,
        mask: Mask,
        decoded: Tensor | None,
        grid: tuple[int, ...],
        each: bool = False,
        visible: bool = False,
    ) -> Tensor:
        loss: Tensor = self.model(images, mask, decoded, grid, each=each, visible=visible)
        return loss


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor split as ``like`` is."""
    if not isinstance(like, DTensor):
        return whole
    everywhere = DTensor.from_local(whole.to(like.device), like.device_mesh, [Replicate()], run_check=False)
    return everywhere.redistribute(placements=like.placements)
