"""``evaluate --protocol occlusion``: how accuracy falls as more of the test images is hidden.

A probe learns from features of whole training images; then the test images are occluded by each kind of occluder at
each share, and the probe predicts. The figure is the area under the curve of accuracy over the share, divided by the
range of shares: the mean accuracy over them. Where an encoder has a decoder, it is also asked to fill in what was
hidden, and its picture is compared with the true one inside the hidden region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.probes import fit_logistic, knn_predict
from pipelines.commandline.terminal import plain
from pipelines.errors import UserError, user_errors
from pipelines.evaluate.data import Data
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import Features
from pipelines.evaluate.independent_maps import check_independent, check_truth, refuse_same, refuse_truth
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.protocol import Measurement
from pipelines.evaluate.protocols.occluders import Occluders
from pipelines.evaluate.protocols.occlusion_curves import Predict, occluded, occlusion_row, recovery, right_about
from pipelines.evaluate.protocols.occlusion_plots import draw_occlusion
from pipelines.evaluate.results.outcome import Measured, UnreadableImages
from pipelines.evaluate.supervised import check_readable
from pipelines.hub import find_maps
from pipelines.progress import progress_bar
from pipelines.sources.formats import is_built_in
from pipelines.views.joined_maps import JoinedMaps, join_maps
from saliency.table.table import SaliencyTable

USUAL_GRID = 14
"""Cells a side of the occluders' grid where the measured encoder has no patches of its own."""


class Occlusion(Measurement):
    """The mean over occluders of the area under the curve of accuracy over the share hidden."""

    name, unit = "occlusion", "area"
    meaning = "the area under the curve of accuracy over the share hidden, mean of occluders"

    def __init__(self, options: EvaluateOptions, data: Data, *, quiet: bool = False) -> None:
        super().__init__(options, data, quiet=quiet)
        self.test = self.parts.test
        self.maps, self.unrecorded = self._open_maps()
        self._grid: tuple[int, int] | None = None

    @classmethod
    def check_maps(cls, options: EvaluateOptions, trained_with: Mapping[str, Path | str]) -> None:
        """UserError if the occluders' maps, or such as were made in the same way, are to be trained with."""
        with user_errors():
            if options.occluder_maps is None:
                scenes = is_built_in(options.test or options.source)  # which have true masks
                if any("salient" in kind for kind in options.occluder) or (scenes and not options.occluder):
                    for name, maps in trained_with.items():
                        refuse_truth(name, SaliencyTable(find_maps(maps)).metadata)
                return
            metadata = SaliencyTable(find_maps(options.occluder_maps)).metadata
            for name, maps in trained_with.items():
                made = SaliencyTable(find_maps(maps)).metadata
                refuse_same(options.occluder_maps, metadata, name, str(maps), made)

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """The probe, and what is hidden. UserError for an occluder that these images do not allow."""
        options, occluders = self.options, self._occluders(encoder, seed)
        return {
            "seed": seed,
            "pool": options.pool,
            "probe": options.occlusion_probe,
            "neighbours": [options.neighbours, options.temperature] if options.occlusion_probe == "knn" else None,
            "kinds": list(self._kinds(occluders)),
            "shares": list(options.shares()),
            "grid": list(occluders.grid),
            "fill": options.occluder_fill,
            "maps": None if self.maps is None else [str(options.occluder_maps), self.maps.table.metadata],
            "recover_images": options.recover_images,
        }

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Measured:
        """Whether the probe is right about every test image, and how well hidden pixels come back. Raises UserError.

        ``figures`` has for each occluder a row an image and a column a share, 1 where the probe is right; under
        ``recovery/OCCLUDER/WHO/psnr`` (and ``ssim``) those of the first ``recover_images`` images, None where nothing
        is hidden.
        """
        options, test = self.options, self.test
        known, occluders = self.parts.train_features(encoder, seed), self._occluders(encoder, seed)
        predict, facts = self._probe(known, seed)
        kinds, shares, unreadable = self._kinds(occluders), options.shares(), UnreadableImages()
        figures: dict[str, list[list[float | None]]] = {}
        loader = test.batches(encoder.size, options.batch_size, workers=options.workers, device=encoder.device)
        told = f"{encoder.name}: occlusion"
        for batch in progress_bar(loader, name=told, unit="batches", part=True, quiet=self.quiet):
            unreadable |= {test.source.keys[bad.index].as_py(): bad.reason for bad in batch.unreadable}
            if not len(batch.images):
                continue
            labels = copy_to(torch.from_numpy(test.labels[batch.indices]), encoder.device)
            filling = occluders.filling(batch)
            whole = right_about(encoder, predict, batch.images, labels)
            for kind in kinds:
                occluder = occluders.draw(kind, batch)
                right = [
                    right_about(encoder, predict, occluded(batch, occluder, share, filling), labels) if share else whole
                    for share in shares
                ]
                figures.setdefault(kind, []).extend(torch.stack(right, dim=1).tolist())
                for name, values in recovery(encoder, batch, occluder, shares, options.recover_images).items():
                    figures.setdefault(f"recovery/{kind}/{name}", []).extend(values)
        check_readable(len(unreadable), test.source)
        return Measured(figures, facts, known.unreadable | unreadable)

    def figures(self, found: Sequence[Measured], first: Sequence[Measured] | None) -> dict[str, Any]:
        """See :func:`occlusion_row`."""
        return occlusion_row(found, first, self.options.shares(), self.options.seed)

    def facts(self) -> dict[str, Any]:
        """What the occluders are."""
        source = "none"
        if self.maps is not None or self.test.source.has_masks:
            source = self.options.occluder_maps or "true masks"
        facts: dict[str, Any] = {
            "grid": list(self._grid or ()),
            "fill": self.options.occluder_fill,
            "salient_by": source,
        }
        return {"occluders": facts | ({"maps_of_training_unknown": self.unrecorded} if self.unrecorded else {})}

    def draw(self, folder: Path, result: Mapping[str, Any], encoder: Encoder) -> None:
        """The curves, and a sheet of what is hidden."""
        occluders = self._occluders(encoder, self.options.all_seeds()[0])
        draw_occlusion(folder, result, encoder, occluders, self.options.occluder or occluders.kinds)

    @classmethod
    def tables(cls, result: Mapping[str, Any]) -> Iterator[Table]:
        """A table an occluder: accuracy at every share, and the area under that curve."""
        for kind in result["rows"][0]["occlusion_curves"]:
            shares = [f"{100 * share:.3g} %" for share in result["rows"][0]["occlusion_shares"]]
            title = f"\noccluder {kind}: accuracy % by the share hidden"
            table = Table("encoder", *shares, "area", box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")
            for row in result["rows"]:
                curve = row["occlusion_curves"][kind]
                half = (curve["area_ends"][1] - curve["area_ends"][0]) / 2
                cells = [f"{100 * value:.1f}" for value in curve["accuracy"]]
                table.add_row(plain(row["encoder"]), *cells, f"{100 * curve['area']:.1f} ± {100 * half:.1f}")
            yield table

    def _probe(self, known: Features, seed: int) -> tuple[Predict, dict[str, Any]]:
        k, temperature, classes = self.options.neighbours, self.options.temperature, len(self.parts.names)
        if self.options.occlusion_probe == "logistic":
            fitted = fit_logistic(known.values, known.labels, classes=classes, seed=seed)
            return fitted.predict, {"probe": "logistic", "penalty": fitted.penalty}

        def vote(features: Tensor) -> Tensor:
            return knn_predict(known.values, known.labels, features, k=k, temperature=temperature, classes=classes)

        return vote, {"probe": "knn", "neighbours": k, "temperature": temperature}

    def _occluders(self, encoder: Encoder, seed: int) -> Occluders:
        """Those of a seed; their grid is the option's, or that of the first encoder that was asked for."""
        if self._grid is None:
            side, model = self.options.occluder_grid or USUAL_GRID, encoder.autoencoder
            own = model is not None and self.options.occluder_grid is None
            self._grid = (model.grid[-2], model.grid[-1]) if own and model is not None else (side, side)
        return Occluders(self.test, self._grid, maps=self.maps, fill=self.options.occluder_fill, seed=seed)

    def _open_maps(self) -> tuple[JoinedMaps | None, list[str]]:
        place = self.options.occluder_maps
        if place is None:
            return None, []
        folder = find_maps(place)
        with user_errors():
            metadata = SaliencyTable(folder).metadata
        # First of all: maps of other images would be refused too, and for a lesser reason.
        unrecorded = check_independent(place, metadata, (self.options.run, *self.options.beside))
        return join_maps(folder, self.test.source, on_missing="error"), unrecorded

    def _kinds(self, occluders: Occluders) -> tuple[str, ...]:
        kinds = tuple(dict.fromkeys(self.options.occluder)) or occluders.kinds
        if self.maps is None and any("salient" in kind for kind in kinds):
            check_truth((self.options.run, *self.options.beside))
        for kind in self.options.occluder:
            if kind not in occluders.kinds:
                raise UserError(
                    f"--occluder {kind}: {self.test.source.name} has no true masks to show what is salient; give "
                    "--occluder-maps MAPS, other maps than those the model was trained with"
                )
        return kinds
