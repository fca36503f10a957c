"""An encoder under evaluation, traced on a GPU that is not there."""

import pytest
import torch

from mae.mask_learners.gate import Gate
from pipelines.evaluate.encoders.encoder import open_encoder
from tests.fake_cuda import CUDA, TF32, fake_cuda
from tests.tiny_mae import nano


@pytest.mark.parametrize(("precision", "products"), [("auto", torch.bfloat16), ("fp32", TF32)])
def test_features_never_wait(precision, products, tmp_path, monkeypatch):
    import pipelines.evaluate.encoders.encoder as module

    monkeypatch.setattr(module, "_open_mae", lambda _: (nano(), True))
    monkeypatch.setattr(module, "gate_file", lambda _: tmp_path)
    monkeypatch.setattr(module, "load_gate", lambda _: Gate(16, width=16, depth=1))
    with fake_cuda() as cuda:
        images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        opened = [
            open_encoder(f"{tmp_path}{keep}", pool="mean", device="cuda:0", precision=precision)
            for keep in ("", "@keep=0.5,gate")
        ]
        calls = [*(encoder.features for encoder in opened), opened[0].patches]
        for call in calls:
            call(images)
        for call, ranked in zip(calls, (False, True, False), strict=True):
            cuda.products.clear()
            with cuda:
                found = call(images)
            assert (found.device, found.dtype) == (CUDA, torch.float32)
            assert set(cuda.products) == {products} | ({torch.float32} if ranked else set())
