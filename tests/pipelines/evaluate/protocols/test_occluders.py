import numpy as np
import pyarrow as pa
import pytest
import torch

from mae.evaluation.occluders import GREY, cover
from pipelines.evaluate.protocols.occluders import Occluders
from pipelines.evaluate.protocols.occlusion_curves import occluded
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views.image_views import InOrder, Views, load_views
from pipelines.views.joined_maps import JoinedMaps
from pipelines.views.labelled import Labelled
from saliency.table.table import SaliencyTable
from tests.tiny_mae import write_maps

KINDS = ("random", "salient", "non-salient", "block", "object")


def scenes(count=8):
    source = open_source(f"shapes:{count},size=32,objects=1-2")
    return Labelled(source, source.labels)


def batch_of(part, size=(32, 32), chosen=None):
    source = part.source if chosen is None else part.source.select(chosen)
    return next(iter(load_views(Views(source, size, augment=False), InOrder(len(source), len(source)), workers=0)))


def hide(part, kind, share=0.4, **options):
    occluders, batch = Occluders(part, (8, 8), **options), batch_of(part)
    return occluded(batch, occluders.draw(kind, batch), share, occluders.filling(batch))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_what_is_hidden_is_the_share_and_the_rest_is_untouched(kind, share):
    part = scenes()
    occluders, batch = Occluders(part, (8, 8)), batch_of(part)
    region = occluders.draw(kind, batch).region(share, (32, 32))
    patch = 1 / 64
    assert (region.float().mean((1, 2)) - share).abs().max() <= patch
    images = occluded(batch, occluders.draw(kind, batch), share, occluders.filling(batch))
    outside = ~region[:, None].expand_as(images)
    assert torch.equal(images[outside], batch.images[outside])
    assert images.dtype == torch.uint8
    if share and kind not in ("object",):
        assert (images.permute(0, 2, 3, 1)[region] == torch.tensor(GREY, dtype=torch.uint8)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_occlusion_follows_from_seed_and_key_alone(kind):
    part = scenes()
    whole = hide(part, kind)
    assert torch.equal(whole, hide(part, kind))
    assert not torch.equal(whole, hide(part, kind, seed=1))
    batch = batch_of(part)
    occluders = Occluders(part, (8, 8))
    for i in (0, 5):  # other images of the batch make no difference
        alone = type(batch)(
            batch.images[i : i + 1], batch.boxes[i : i + 1], batch.flips[i : i + 1], batch.indices[i : i + 1], [],
            batch.places[i : i + 1],
        )  # fmt: skip
        found = occluded(alone, occluders.draw(kind, alone), 0.4, occluders.filling(alone))
        assert torch.equal(found, whole[i : i + 1])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "object"])  # what is pasted is of the same part
def test_an_image_is_occluded_alike_wherever_it_stands(kind):
    part = scenes()
    turned = Labelled(part.source.select(range(8)[::-1]), part.labels[::-1])
    assert torch.equal(hide(part, kind).flip(0), hide(turned, kind))


def test_images_are_occluded_each_in_its_own_way():
    regions = Occluders(scenes(), (8, 8)).draw("random", batch_of(scenes())).region(0.5, (32, 32))
    assert len({region.numpy().tobytes() for region in regions}) == 8


def test_noise_is_of_the_key_and_as_large_as_the_image():
    noise = hide(scenes(), "random", fill="noise")
    assert torch.equal(noise, hide(scenes(), "random", fill="noise"))
    grey = hide(scenes(), "random")
    where = (noise != grey).any(1)
    assert where.float().mean() == pytest.approx(0.4, abs=0.02)


def test_salient_hides_the_object_first_and_non_salient_last():
    part = scenes()
    batch, occluders = batch_of(part), Occluders(part, (8, 8))
    masks = torch.stack([torch.from_numpy(part.source.read_mask(i)) for i in range(len(part))])
    share = 0.3  # more than any object covers, less than what is around it
    on = {kind: occluders.draw(kind, batch).region(share, (32, 32)) for kind in ("salient", "non-salient")}
    assert ((on["salient"] & masks).sum((1, 2)) == masks.sum((1, 2))).all()
    assert not (on["non-salient"] & masks).any()


def test_maps_stand_in_for_masks(tmp_path):
    part = scenes()
    peaks = np.zeros((8, 4, 4))
    peaks[:, 0, 0] = 1
    table = SaliencyTable(write_maps(tmp_path / "maps", part.source, maps=peaks))
    maps = JoinedMaps(table, table.join(part.source.keys, part.source.captions))
    batch = batch_of(part)
    region = Occluders(part, (8, 8), maps=maps).draw("salient", batch).region(4 / 64, (32, 32))
    assert region[:, :8, :8].all()
    assert region.sum() == 8 * 64


def pictures(colours, masks=None):
    """Images of one colour each, as a source in memory; the label is the image's number."""
    import io

    from PIL import Image

    def png(colour):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
        return buffer.getvalue()

    keys = pa.array([f"{i}" for i in range(len(colours))])
    labels = np.arange(len(colours))
    return Labelled(Source("memory", keys, [png(c) for c in colours], labels=labels, masks=masks), labels)


def test_without_masks_a_rectangle_of_another_image_is_pasted():
    part = pictures([(250, 0, 0), (0, 250, 0)])
    assert Occluders(part, (8, 8)).kinds == ("random", "block", "object")
    images = hide(part, "object", 0.5)
    assert set(images[0].flatten(1).T.unique(dim=0).flatten().tolist()) == {0, 250}
    assert (images[0, 1] == 250).float().mean() == pytest.approx(0.5, abs=1 / 64)
    assert (images[1, 0] == 250).float().mean() == pytest.approx(0.5, abs=1 / 64)


def test_what_is_pasted_comes_from_an_image_of_another_class_with_a_mask():
    mask = np.zeros((32, 32), bool)
    mask[8:20, 8:20] = True
    part = pictures([(250, 0, 0), (0, 250, 0), (0, 0, 250)], masks=[mask, None, mask])
    part = Labelled(part.source, np.array([0, 1, 1]))
    images = hide(part, "object", 0.3)
    assert (images[0, 2] == 250).float().mean() == pytest.approx(0.3, abs=0.01)  # 1 has no mask
    assert (images[1, 0] == 250).float().mean() == pytest.approx(0.3, abs=0.01)  # 2 is of its own class


def test_a_source_of_one_image_has_nothing_to_paste():
    images = hide(pictures([(250, 0, 0)]), "object", 0.5)
    assert (images[0, 0] == 128).float().mean() == pytest.approx(0.5, abs=1 / 64)


def test_cover_takes_a_colour_or_a_picture():
    images, region = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.ones(2, 4, 4, dtype=torch.bool)
    assert (cover(images, region, torch.full((3, 1, 1), 9, dtype=torch.uint8)) == 9).all()
