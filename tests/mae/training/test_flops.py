"""FLOPs against torch's own counter on the model itself, and peaks by the names that drivers give their devices."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae.masks.decoded import choose_decoded
from mae.masks.masking import Masking
from mae.models import linear
from mae.models.vit import MaskedAutoencoder
from mae.training.flops import Peak, peak_flops, table_peak, training_flops
from mae.training.settings import TrainingSettings
from mae.training.training import Training
from tests.tiny_mae import nano


def counted(model, mask_ratio, decode_ratio, visible):
    images = torch.rand(2, 3, *model.image_size)
    mask = Masking(mask_ratio=mask_ratio)(2, model.grid, generator=torch.Generator())
    decoded = choose_decoded(mask, decode_ratio, torch.Generator())
    # Unfused, for a fused attention's backward pass does a product of the forward pass again, and that is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images, mask, decoded, each=visible, visible=visible).mean().backward()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("decode_ratio", [1.0, 0.3])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.5])
@pytest.mark.parametrize("size", [64, (32, 96)])
def test_the_count_is_torchs(monkeypatch, size, mask_ratio, decode_ratio):
    monkeypatch.setattr(linear, "ONEDNN", False)  # whose products torch does not count
    model = MaskedAutoencoder(size, 8, 96, 2, 3, 64, 3, 2, mlp_ratio=3.0)
    visible = decode_ratio < 1
    expected = counted(model, mask_ratio, decode_ratio, visible)
    assert training_flops(model, mask_ratio, decode_ratio, predict_visible=visible) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "billions"), [("base", 58.5), ("large", 124.0), ("small", 15.4)])
def test_the_papers_sizes(name, billions):
    with torch.device("meta"):
        model = MaskedAutoencoder.from_size(name)
    found = training_flops(model, 0.75) / 1e9
    assert 0.96 * billions < found < billions, "the plain formulation does a little more"


def test_it_grows_with_what_is_seen_and_decoded():
    with torch.device("meta"):
        model = MaskedAutoencoder.from_size("tiny")
    by_mask = [training_flops(model, ratio) for ratio in (0.75, 0.5, 0.25)]
    by_decoded = [training_flops(model, 0.75, ratio) for ratio in (0.25, 0.5, 1.0)]
    assert by_mask == sorted(set(by_mask))
    assert by_decoded == sorted(set(by_decoded))
    assert by_decoded[-1] == by_mask[0]


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A10", 125, 31.2),
        ("NVIDIA A10G", 70, 31.5),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("Tesla T4", None, 8.1),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA H100 80GB HBM3", 989, 66.9),
        ("NVIDIA H100 PCIe", 756, 51.2),
        ("NVIDIA H200", 989, 66.9),
        ("NVIDIA B200", 2250, 75),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
    ],
)
def test_peaks_by_name(name, bf16, fp32):
    for precision, expected in (("bf16", bf16), ("fp32", fp32)):
        found = table_peak(name, precision)
        assert (found and found.flops) == (expected and pytest.approx(expected * 1e12))
        assert found is None or found.origin == "table"


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA GeForce GTX 1080",
        "AMD Instinct MI300X",
    ],
)
def test_a_device_that_is_not_known_has_no_peak(name):
    assert table_peak(name, "bf16") is None
    assert table_peak(name, "fp32") is None


def test_the_peak_of_a_cpu_is_measured_once():
    first = peak_flops("cpu", "fp32")
    assert first.origin == "measured"
    assert 1e9 < first.flops < 1e14
    assert peak_flops(torch.device("cpu"), "fp32") == first
    assert peak_flops("mps", "fp32") is None


def test_utilisation_is_the_share_of_the_peak_that_the_images_need(monkeypatch):
    run = Training(nano(), Masking(), TrainingSettings(decode_ratio=0.5), 10)
    run.__dict__["peak"] = Peak(1e9, "table")
    assert run.flops_per_image() == training_flops(run.model, 0.75, 0.5)
    assert run.mfu(1e8) == pytest.approx(0.1)
    run.__dict__["peak"] = None
    assert run.mfu(1e8) is None
