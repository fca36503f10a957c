"""Short texts beside the whole context: open_clip's own ``encode_text`` is the reference."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP

from saliency.towers import texts
from saliency.towers.texts import encode_tokens

VISION = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
CAPTIONS = ["a", "two dogs on a beach", "word " * 40, "word " * 200, ""]


def build(kind, **text):
    torch.manual_seed(0)
    model = kind(16, VISION, TEXT | text).eval()
    for name, parameter in model.named_parameters():
        if "positional" in name or "proj" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize(
    "text",
    [
        {},
        {"pool_type": "eos", "eos_id": 49407},
        {"pool_type": "last"},
        {"pool_type": "first"},
        {"proj_bias": True},
        {"no_causal_mask": True},
        {"embed_cls": True},
    ],
)
@torch.no_grad()
def test_features_equal_those_of_the_whole_context(kind, text):
    if kind is CLIP and "embed_cls" in text:
        text = {}
    model = build(kind, **text)
    tokens = open_clip.SimpleTokenizer(context_length=77)(CAPTIONS)
    for chosen in (tokens, tokens[:2], tokens[:1]):
        expected = model.encode_text(chosen)
        assert expected.std() > 0.01
        torch.testing.assert_close(encode_tokens(model, chosen), expected, atol=1e-5, rtol=1e-5)


def test_the_padding_is_not_computed(monkeypatch):
    """Texts of about one length go together, and each batch is as long as its longest."""
    model = build(CLIP)
    seen = []
    model.transformer.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape[:2])))
    monkeypatch.setattr(texts, "_AT_ONCE_ELSEWHERE", 2)
    tokens = open_clip.SimpleTokenizer(context_length=77)(["cat " * count for count in (9, 1, 2, 20)] + [""])
    with torch.no_grad():
        features = encode_tokens(model, tokens)
        torch.testing.assert_close(features, model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert seen[:3] == [(2, 3), (2, 11), (1, 22)]


def test_a_tower_without_a_causal_mask_sees_its_padding():
    model = build(CLIP, no_causal_mask=True)
    seen = []
    model.transformer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[1]))
    with torch.no_grad():
        encode_tokens(model, open_clip.SimpleTokenizer(context_length=77)(["a"]))
    assert seen == [77]
