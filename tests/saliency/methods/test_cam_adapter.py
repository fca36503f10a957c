"""The adapter's own part; that its maps equal the library's, tests/reference/ says."""

import importlib.util

import numpy as np
import pytest
import torch

from saliency.methods.cam_adapter import CLASSES, _orient
from saliency.methods.methods import METHODS, check_method, saliency_maps
from tests.saliency.methods.test_attention import make_tower
from tests.saliency.methods.test_methods import make_pairs


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    tower = make_tower("class token")
    check_method("layercam", tower)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "grad_cam" in name else find(name))
    with pytest.raises(ValueError, match=r"--method layercam needs .*: pip install 'saliency-mae\[cam\]'$"):
        check_method("layercam", tower)
    check_method("gradcam", tower)


def test_every_class_is_a_method():
    assert {name for name, row in METHODS.items() if row.adapted} == set(CLASSES)


def test_a_component_is_turned_to_the_evidence():
    evidence = np.zeros((2, 2, 2), np.float32)
    evidence[:, 0, 0] = 1
    maps = np.stack([evidence[0] - 0.25, 0.25 - evidence[1]])
    np.testing.assert_array_equal(_orient(maps, evidence), np.stack([maps[0], -maps[1]]))


def test_scorecam_shows_no_progress_bar(capsys):
    tower = make_tower("class token")
    saliency_maps(tower, *make_pairs(tower), method="scorecam")
    assert capsys.readouterr() == ("", "")


def test_scorecam_holds_one_image_at_a_time(monkeypatch):
    tower = make_tower("class token")
    sizes = []
    encode = tower.encode_images
    monkeypatch.setattr(tower, "encode_images", lambda inputs: (sizes.append(len(inputs)), encode(inputs))[1])
    pixels, texts = make_pairs(tower)
    saliency_maps(tower, pixels, texts, method="scorecam")
    assert sizes[0] == 3
    assert sizes[1:] == [16, 16] * 3  # 32 channels of each image


def test_methods_read_one_cut_graph():
    """No graph before the layer: the library alone would run the whole model backwards."""
    tower = make_tower("class token")
    seen = []
    block = tower.model.visual.transformer.resblocks[0]
    handle = block.register_forward_hook(lambda _m, _i, output: seen.append(output))
    saliency_maps(tower, *make_pairs(tower), method="xgradcam")
    handle.remove()
    assert [tensor.grad_fn for tensor in seen] == [None]
    assert not torch.is_inference(seen[0])
