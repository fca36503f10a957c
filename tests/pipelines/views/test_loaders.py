"""Loaders of views give what the views themselves are."""

import torch

from pipelines.sources.open_source import open_clips, open_source
from pipelines.views.clip_views import ClipShape, ClipViews
from pipelines.views.image_views import EpochBatches, Views
from pipelines.views.loaders import first_views, training_views


def test_the_first_views_are_central_ones_in_order():
    source = open_source("shapes:5,size=32")
    batch, views = first_views(source, (16, 24), 3), Views(source, (16, 24), augment=False)
    assert batch.indices.tolist() == [0, 1, 2]
    assert torch.equal(batch.images, torch.stack([torch.from_numpy(views[0, index].pixels) for index in range(3)]))
    assert len(first_views(source, (16, 16), 9).images) == 5


def test_the_first_views_of_videos_are_clips():
    source, shape = open_clips("shapes-video:3,size=32,frames=8"), ClipShape(4, 1)
    batch, views = first_views(source, (16, 16), 2, shape), ClipViews(source, (16, 16), shape, augment=False)
    assert batch.images.shape == (2, 3, 4, 16, 16)
    assert torch.equal(batch.images[1], torch.from_numpy(views[0, 1].pixels))


def test_training_views_are_the_same_wherever_they_are_made():
    source = open_source("shapes:8,size=32")
    made = {}
    for where in ("workers", "device"):
        loader = training_views(
            source,
            EpochBatches(8, 4, 2, 2, seed=3),
            (16, 16),
            clip=None,
            sizes=[(16, 16), (24, 24)],
            seed=3,
            augment_on=where,
            device=torch.device("cpu"),
            workers=0,
        )
        made[where] = [batch.images for batch in loader]
    assert [tuple(images.shape[2:]) for images in made["workers"]] == [(16, 16)] * 2 + [(24, 24)] * 2
    assert all(torch.equal(*pair) for pair in zip(*made.values(), strict=True))
