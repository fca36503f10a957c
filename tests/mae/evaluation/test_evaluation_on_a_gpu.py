"""What evaluation does with features and models, traced on a GPU that is not there."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from mae.evaluation.attentive_probe import AttentiveSweep
from mae.evaluation.classifier import add_head
from mae.evaluation.finetune import FinetuneRecipe, FineTuning
from mae.evaluation.linear_probe import LinearSweep
from mae.evaluation.probes import knn_predict
from mae.evaluation.propagation import propagate, to_mask
from mae.evaluation.segmentation import overlaps, segment
from tests.fake_cuda import CUDA, TF32, fake_cuda

BF16, FP32 = torch.bfloat16, torch.float32


def pinned(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype).pin_memory()


@pytest.mark.parametrize(("precision", "products"), [("auto", {BF16}), ("fp32", {TF32})])
def test_a_step_of_fine_tuning(precision, products):
    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    add_head(network, 3, seed=0)
    with fake_cuda() as cuda:
        asked = {"batch_size": 4, "steps_per_epoch": 2, "device": CUDA, "precision": precision}
        tuning = FineTuning(network, FinetuneRecipe(epochs=1), 3, **asked)

        def given():
            return [(pinned(4, 3, 32, 32), pinned(4, dtype=torch.int64))]

        tuning.update(given())
        waiting = given()
        with cuda:
            loss = tuning.update(waiting)
            scores = tuning.scores(torch.zeros(2, 3, 32, 32, device=CUDA))
        assert [(t.device, t.dtype) for t in (loss, scores)] == [(CUDA, FP32)] * 2
        assert set(cuda.products) == products
        assert cuda.copies == 2  # pixels and classes


def test_a_step_of_frozen_probes_and_votes(monkeypatch):
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor.zero_())  # whose own looks at values
    with fake_cuda() as cuda:
        sweep = LinearSweep(16, 3, (0.1, 1.0), batch_size=4, total_steps=2, warmup_steps=1, device=CUDA)
        features, labels = torch.zeros(4, 16, device=CUDA), torch.zeros(4, dtype=torch.int64, device=CUDA)
        tokens = torch.zeros(4, 9, 16, device=CUDA)
        pooling = AttentiveSweep(16, 3, (0.1, 1.0), batch_size=4, total_steps=2, warmup_steps=1, device=CUDA)
        sweep.update(features, labels)
        pooling.update_in_parts([(tokens, labels)], 4)
        with cuda:
            losses = sweep.update(features, labels) + pooling.update_in_parts([(tokens, labels)], 4)
            found = knn_predict(features, labels, features, k=2, classes=3)
        assert {each.device for each in (losses, sweep.logits(features), found)} == {CUDA}
        assert set(cuda.products) == {FP32}  # what compares is not rounded


def test_masks_are_segmented_and_carried_without_waiting():
    with fake_cuda() as cuda:
        scores, truth = torch.zeros(3, 4, 4, device=CUDA), torch.zeros(20, 30, dtype=torch.int64, device=CUDA)
        features, first = torch.zeros(5, 8, 4, 4, device=CUDA), torch.zeros(2, 4, 4, device=CUDA)
        with cuda:
            counts = overlaps(segment(scores, (20, 30)), truth, 3)
            masks = [to_mask(labels, (20, 30)) for labels in propagate(features, first, context=2, radius=2)]
        assert (counts.shape, counts.device) == ((6,), CUDA)
        assert {(mask.shape, mask.device) for mask in masks} == {((20, 30), CUDA)}
        assert set(cuda.products) == {FP32}
