"""Maps, traced on a GPU that is not there: it is all on one device, nothing waits, and after the cut all is float32."""

import itertools

import pytest
import torch

from saliency.methods import backgrounds
from saliency.methods.cam_adapter import CLASSES
from saliency.methods.windows import map_windows
from saliency.names import METHOD_NAMES
from saliency.towers import tower as module
from saliency.towers.tower import Tower
from tests.fake_cuda import CUDA, fake_cuda
from tests.tiny_clip import make_tiny_clip


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name not in CLASSES])
def test_maps(method, tiles, monkeypatch):
    monkeypatch.setattr(module, "_hash_weights", lambda _: "")  # of bytes, which fake tensors do not have
    with fake_cuda() as cuda:
        tower = Tower(make_tiny_clip(), None, device=CUDA)
        backgrounds._FEATURES[tower] = torch.zeros(30, 16, device=CUDA)  # once a tower
        pixels = torch.zeros(2, 1 + (tiles > 1) * tiles**2, 3, 32, 32, dtype=torch.uint8)
        texts = torch.zeros(3, 2, 16, device=CUDA)
        asked = {"method": method, "tiles": tiles, "grid": 8, "at_once": 10}
        map_windows(tower, pixels, texts, **asked)
        with cuda:
            maps, scores = map_windows(tower, pixels, texts, **asked)
        assert tower.precision == "bf16"
        assert (maps.shape, maps.device, maps.dtype) == ((3, 2, 8, 8), CUDA, torch.float32)
        assert (scores.shape, scores.device, scores.dtype) == ((3, 2), CUDA, torch.float32)
        phases = [kind for kind, _ in itertools.groupby(cuda.products)]
        cuts = 2 if method == "legrad" else 1  # which cuts the graph in each of the two blocks
        assert phases == [torch.bfloat16, torch.float32] * cuts
