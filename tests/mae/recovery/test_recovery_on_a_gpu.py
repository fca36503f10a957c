"""Hidden pixels filled in, traced on a GPU that is not there: what is decided by masks is decided on the host."""

import pytest
import torch

from mae.models.video import VideoMaskedAutoencoder
from mae.recovery import completion, recover, stream_encoder, stream_recoverer
from mae.recovery.completion import complete
from tests.fake_cuda import CUDA, TF32, fake_cuda
from tests.tiny_mae import nano

BF16, FP32 = torch.bfloat16, torch.float32
PRECISIONS = pytest.mark.parametrize(("precision", "products"), [("bf16", BF16), ("fp32", TF32)])


@pytest.fixture(autouse=True)
def _decided(monkeypatch):
    """What the host reads off a mask, which fake tensors do not hold."""
    monkeypatch.setattr(recover, "_by_count", lambda _: [(5, torch.arange(1)), (7, torch.arange(1, 2))])
    monkeypatch.setattr(stream_encoder, "visible_places", lambda hidden, _: _on_the_host(hidden, torch.arange(12)))
    monkeypatch.setattr(stream_recoverer, "hidden_places", lambda hidden, _: _on_the_host(hidden, torch.arange(12, 16)))
    monkeypatch.setattr(completion, "box_around", lambda hidden, _: _on_the_host(hidden, (slice(3, 20), slice(5, 30))))


def _on_the_host(hidden, places):
    assert hidden.device.type == "cpu"
    return places


@PRECISIONS
def test_pictures(precision, products):
    with fake_cuda() as cuda:
        model = nano(norm_pix=True).to(CUDA).eval()
        images, hidden = torch.zeros(2, 3, 45, 61, dtype=torch.uint8), torch.zeros(2, 45, 61, dtype=torch.bool)
        complete(model, images, hidden, precision=precision)
        cuda.products.clear()
        with cuda:
            found = complete(model, images, hidden, precision=precision)
        assert (found.shape, found.device, found.dtype) == (images.shape, CUDA, torch.uint8)
        assert set(cuda.products) == {products, FP32}  # brightness and contrast are not rounded


@PRECISIONS
@pytest.mark.parametrize("kind", ["video", "image"])
def test_streams(kind, precision, products):
    sizes = {"width": 16, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
    with fake_cuda() as cuda:
        model = nano() if kind == "image" else VideoMaskedAutoencoder(32, 8, frames=8, tubelet=2, **sizes)
        model = model.to(CUDA).eval()
        encoder = stream_encoder.stream_encoder(model, precision)
        frames, hidden = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 32, 32, dtype=torch.bool)
        for _ in range(5):  # at the fifth tubelet a window begins anew
            encoder.push(frames, hidden)
        with cuda:
            (*_, found) = [encoded.feature() for _ in range(4) for encoded in encoder.push(frames, hidden)]
        assert (found.shape, found.device, found.dtype) == ((16,), CUDA, FP32)
        assert set(cuda.products) == {products}


@PRECISIONS
def test_a_video_is_filled_in(precision, products):
    sizes = {"width": 16, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
    with fake_cuda() as cuda:
        model = VideoMaskedAutoencoder(32, 8, frames=8, tubelet=2, **sizes).to(CUDA).eval()
        recoverer = stream_recoverer.stream_recoverer(model, precision=precision)
        frames, hidden = torch.zeros(2, 3, 45, 61, dtype=torch.uint8), torch.zeros(2, 45, 61, dtype=torch.bool)
        there = frames.to(CUDA)  # so that what is filled in may stay there
        for _ in range(5):
            recoverer.push(there, hidden)
        cuda.products.clear()
        with cuda:
            found = [recoverer.push(there, hidden) for _ in range(4)][-1]
        assert (found.shape, found.device, found.dtype) == (frames.shape, CUDA, torch.uint8)
        assert set(cuda.products) == {products, FP32}
