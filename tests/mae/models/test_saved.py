"""Arguments of a model in a file of a stranger: refused at once and without memory, whatever they ask for."""

import time

import pytest
import torch

from mae.formats.foreign import Weights, build
from mae.models.saved import saved_model
from mae.models.video import VideoMaskedAutoencoder
from tests.tiny_mae import NANO, nano

MODEL = nano()
ARGUMENTS = dict(MODEL._hub_mixin_config)
SHAPES = {name: weight.shape for name, weight in MODEL.state_dict().items()}


@pytest.mark.parametrize(
    "more",
    [
        {"width": 10**9}, {"width": "16"}, {"width": True}, {"depth": 10**6}, {"heads": 0}, {"patch_size": 0},
        {"image_size": 10**7}, {"image_size": [16]}, {"image_size": "16"}, {"image_size": [65536, 65536]},
        {"mlp_ratio": float("nan")}, {"mlp_ratio": -1}, {"norm_pix": 1}, {"channels": None}, {"more": 1},
        {"decoder_depth": 0}, {"frames": 4, "tubelet": 0}, {"frames": 16, "positions": ["table"]},
        {"width": 8192, "depth": 512}, {"decoder_width": 16384, "decoder_depth": 1000}, {"class_token": True},
    ],
)  # fmt: skip
def test_what_can_not_be_is_one_line_at_once(more):
    started = time.process_time()
    with pytest.raises(
        ValueError, match=r"can't be|are more than|in the weights, and|no arguments|small part"
    ) as caught:
        saved_model(ARGUMENTS | more, SHAPES)
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 3


def test_a_decoder_that_the_weights_lack_is_not_of_any_size():
    encoder = {
        name: weight for name, weight in MODEL.state_dict().items() if "decoder" not in name and "mask" not in name
    }
    assert not Weights(encoder, ARGUMENTS).has_decoder
    build(Weights(encoder, ARGUMENTS), fresh_decoder=True)
    with pytest.raises(ValueError, match="of which the weights are a small part"):
        build(Weights(encoder, ARGUMENTS | {"decoder_width": 16384, "decoder_depth": 100}), fresh_decoder=True)


def test_models_are_what_their_arguments_say_and_draw_the_same_numbers():
    video = VideoMaskedAutoencoder(image_size=16, frames=4, **NANO._asdict())
    for model in (MODEL, video):
        arguments, shapes = dict(model._hub_mixin_config), {k: v.shape for k, v in model.state_dict().items()}
        torch.manual_seed(0)
        first = saved_model(arguments, shapes)
        torch.manual_seed(0)
        other = type(model)(**arguments)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
