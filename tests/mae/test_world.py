"""The processes of a training: what the environment says of them, and who gets what."""

import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from mae.distributed import World, give_up, is_hopeless, is_lost_connection, open_world
from mae.masks.masking import Masking, Part
from mae.masks.strategies import blind
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.tiny_mae import nano

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    for name in (*TORCHRUN, "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(name, str(value)) for name, value in values.items()]


def test_one_process_has_no_group(environment):
    with open_world("cpu") as world:
        assert (world.rank, world.size, world.is_main, world.restarts) == (0, 1, True, 0)
        assert not dist.is_initialized()
        tensor = torch.arange(3.0)
        assert world.sum(tensor) is tensor
        assert world.max(tensor) is tensor
        assert world.gather("x") == ["x"]
        assert world.gather_tensor(tensor).shape == (1, 3)
        assert world.gather_array(np.arange(4)).shape == (1, 4)
        assert world.device("cuda:1") == torch.device("cuda:1")


def test_one_process_of_torchrun_has_none_either(environment):
    environment(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR="localhost", MASTER_PORT=1)
    environment(TORCHELASTIC_RESTART_COUNT=2)
    with open_world("cpu") as world:
        assert (world.size, world.restarts) == (1, 2)
        assert not dist.is_initialized()


def test_a_world_that_is_described_in_part(environment):
    environment(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1)
    with (
        pytest.raises(ValueError, match="not MASTER_ADDR, MASTER_PORT: start the processes by torchrun"),
        open_world(None),
    ):
        pass


@given(st.integers(1, 9), st.integers(0, 20))
def test_every_thing_is_in_one_part(size, each):
    count = size * each
    parts = [range(count)[World(rank, size).part(count)] for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(count))
    assert {len(part) for part in parts} == {each}


def test_what_can_not_be_shared_out():
    with pytest.raises(ValueError, match="10 can't be shared out evenly among 4 processes"):
        World(0, 4).part(10)


def test_the_device_of_a_process():
    world = World(rank=5, size=8, local_rank=1, local_size=4)
    assert world.device("cuda") == torch.device("cuda", 1)
    assert world.device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device cuda:0 is one GPU for 8 processes: give --device cuda"):
        world.device("cuda:0")


def test_a_launch_is_given_up_for_good(environment):
    assert not is_hopeless()
    give_up()
    assert not is_hopeless()  # without torchrun nobody starts again
    server = dist.TCPStore("localhost", 0, is_master=True)
    environment(MASTER_ADDR="localhost", MASTER_PORT=server.port, TORCHELASTIC_USE_AGENT_STORE="True")
    assert not is_hopeless()
    give_up()
    assert is_hopeless()


def test_a_lost_connection_is_told_from_a_bug():
    assert is_lost_connection(RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]"))
    assert not is_lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_connection(ValueError("Connection closed by peer"))


# Masks and losses of parts


@pytest.mark.parametrize("strategy", blind())
@given(data=st.data())
def test_parts_get_the_masks_of_the_whole(strategy, data):
    count = data.draw(st.integers(2, 12))
    cut = data.draw(st.integers(1, count - 1))
    pick = data.draw(st.sampled_from(["top", "weighted"]))
    saliency = torch.rand(count, 12, generator=torch.Generator().manual_seed(count))
    masking = Masking(strategy, mask_ratio=0.5, salient_pick=pick)

    def masks(part, images):
        return masking(
            len(images), (3, 4), generator=torch.Generator().manual_seed(5), saliency=saliency[images], part=part
        ).hidden

    whole = masks(None, range(count))
    pieces = [range(cut), range(cut, count)]
    found = [masks(Part(torch.tensor(piece), count, saliency[piece[0] - 1]), piece) for piece in pieces]
    assert torch.equal(torch.cat(found), whole)


def test_an_image_that_is_missing_moves_no_other_ones_noise():
    rows = torch.tensor([0, 2, 3])
    whole, part = (
        Masking()(count, (4, 4), generator=torch.Generator().manual_seed(1), part=part).hidden
        for count, part in ((4, None), (3, Part(rows, 4)))
    )
    assert torch.equal(part, whole[rows])


def training():
    torch.manual_seed(0)
    return Training(nano(), Masking(), TrainingSettings(epochs=2, batch_size=4, warmup_epochs=0, blr=0.1), 10)


def test_the_weights_of_processes_add_up_to_the_mean_over_images():
    """Three processes with 3, 1 and no images: the average of their gradients is the gradient of the whole."""
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pieces = [range(3), range(3, 4), range(0)]
    gradients, total = [], 0.0
    for rank, piece in enumerate(pieces):
        run = training()
        run.world = FakeWorld(rank, 3)
        batch = Batch(images[piece], None, Part(torch.tensor(piece, dtype=torch.int64), 4), 4)
        total += float(run.update([batch]))
        gradients.append({name: p.grad for name, p in run.model.named_parameters() if p.grad is not None})
    whole = training()
    assert total == pytest.approx(float(whole.update([Batch(images)])), rel=1e-6)
    for name, p in whole.model.named_parameters():
        if p.grad is not None:
            mean = sum(each[name] for each in gradients) / 3
            torch.testing.assert_close(mean, p.grad, atol=1e-6, rtol=1e-5)


class FakeWorld(World):
    """A process that hears nothing of the others."""

    def sum(self, tensor):
        return tensor


def test_a_launcher_that_is_gone_is_not_waited_for(monkeypatch):
    """torchrun may be killed while its processes import torch, which would look for its store for half an hour."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1]), "RANK": "0", "LOCAL_RANK": "0"}
        known |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
        for name, value in (known | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match="torchrun has ended"), open_world("cpu"):
            pass
