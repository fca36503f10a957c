"""``export --to onnx``: one file for ONNX Runtime, with preprocessing in its graph and all else in its metadata.

The file is made in memory, opened in ONNX Runtime, compared with the model that it comes from, and written whole.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.probes import fit_logistic
from mae.formats.foreign import build
from mae.mask_learners.gate import Gate, load_gate
from mae.on_device.conversion import add_head, add_metadata, quantised, to_onnx, without_traces
from mae.on_device.graph import DeviceEncoder
from mae.on_device.kept_speed import patches_for_speed
from mae.on_device.session import FEATURES, DeviceModel, Facts
from mae.pixels import IMAGE_MEAN, IMAGE_STD
from mae.training.checkpoints import gate_file
from pipelines.errors import UserError, user_errors
from pipelines.evaluate.encoders.encoder import device_encoder
from pipelines.evaluate.features import compute_features
from pipelines.evaluate.options import EvaluateOptions
from pipelines.export.options import ExportOptions
from pipelines.export.weights import open_weights
from pipelines.sources.random_access import open_images
from pipelines.views.labelled import open_labelled
from saliency.files import remove_leftovers, write_atomically

RESIZE = "largest central part of the image's shape, bicubic with anti-aliasing (Pillow's BICUBIC), RGB"
_PARITY = 1e-4
"""The greatest difference of a float32 file's features from the model's; usual ones are below 1e-5."""


def export_onnx(options: ExportOptions, *, quiet: bool = True) -> dict[str, str]:
    """Write the file ``options.out``; returns what there is to say of it, in words. Raises UserError."""
    out = options.out
    if out.suffix != ".onnx":
        raise UserError(f"--out {out}: with --to onnx it is one file, so give a name that ends in .onnx")
    if out.exists():
        raise UserError(f"--out {out} exists already; give the name of a new file")
    with user_errors():
        module, speeds = _module(options)
        model, difference = _converted(module, options)
    facts, words = _facts(module, options), dict[str, str]()
    if options.classify is not None:
        with user_errors():
            facts, words["logits"] = _with_head(model, facts, options, quiet)
    add_metadata(model, facts.texts())
    content = model.SerializeToString()
    with user_errors():
        DeviceModel(content)
    remove_leftovers(out.parent, {out.name}, deep=False)
    write_atomically(out, lambda file: file.write(content))
    return {"file": str(out), **_told(module, facts, len(content), difference), **words, **speeds}


def _module(options: ExportOptions) -> tuple[DeviceEncoder, dict[str, str]]:
    """The graph's module, and how fast how many patches were, where that was measured. ValueError."""
    weights = open_weights(options.run)
    if "frames" in weights.config:
        raise ValueError("--to onnx is for models of images; a video model goes --to transformers")
    if options.reconstruct and not weights.has_decoder:
        raise ValueError(f"--reconstruct needs a decoder, and {options.run} has none")
    model, by = build(weights, fresh_decoder=True), options.keep_by or "gate"
    file = gate_file(options.run) if by == "gate" and options.share() != 1 and options.run.is_dir() else None
    gate = None if file is None else load_gate(file)
    share = options.share()
    if share is not None:
        return _made(model, share, by, gate, options), {}
    times = options.times()
    assert times is not None
    count, found = patches_for_speed(
        model, times, "center" if by == "map" else by, gate, int8=options.int8, opset=options.opset
    )
    every = math.prod(model.grid)
    words = f"{1e3 * found[count]:.2f} ms on one thread, with all patches {1e3 * found[every]:.2f} ms"
    return _made(model, count / every, by, gate, options), {"one image": words}


def _made(model: Any, share: float, by: str, gate: Gate | None, options: ExportOptions) -> DeviceEncoder:
    try:
        return DeviceEncoder(model, share, by, gate, reconstruct=options.reconstruct).eval()
    except ValueError as error:
        if by == "gate" and gate is None and share < 1:
            raise ValueError(f"{options.run} has no gate to keep patches by: give --keep-by center or map") from error
        raise


def _converted(module: DeviceEncoder, options: ExportOptions) -> tuple[Any, str]:
    """The file's content, and how far its features are from the module's. ValueError if this runtime can't run it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = module.example(3)
    with torch.no_grad():
        expected = module(*inputs)  # before it is traced: tables that are made at the first call are kept
    model = to_onnx(module, inputs, (module.inputs, module.outputs), options.opset)
    if options.int8:
        model = quantised(model)
    without_traces(model)
    add_metadata(model, _facts(module, options).texts())
    try:
        opened = DeviceModel(model.SerializeToString())
    except ValueError as error:
        raise ValueError(f"{f'--opset {options.opset}: ' if options.opset else ''}{error}") from error
    given = {name: each.numpy() for name, each in zip(module.inputs, inputs, strict=True)}
    found = opened.session.run(None, given)
    del model.metadata_props[:]
    pairs = dict(zip(module.outputs, zip(found, expected, strict=True), strict=True))
    features = [pairs[name] for name in FEATURES.values()]
    apart = max(_apart(*each) for each in features)
    same = "kept_patches" not in pairs or np.array_equal(pairs["kept_patches"][0], pairs["kept_patches"][1].numpy())
    if not options.int8 and same and apart > _PARITY:
        raise RuntimeError(f"the exported file does not compute what the model computes: {apart:.1e} apart")
    shares = [np.linalg.norm(mine - theirs.numpy()) / np.linalg.norm(theirs.numpy()) for mine, theirs in features]
    return model, f"{apart:.1e} at most, {100 * max(shares):.2g} % of the length of the model's features, on noise"


def _apart(mine: NDArray[Any], theirs: Tensor) -> float:
    return float(np.abs(mine.astype(np.float64) - theirs.double().numpy()).max())


def _facts(module: DeviceEncoder, options: ExportOptions, classes: list[str] | None = None) -> Facts:
    model = module.model
    return Facts(
        image_size=model.image_size,
        patch_size=model.patch_size,
        keep=module.keep,
        patches=module.count,
        keep_by=module.by,
        int8=options.int8,
        mean=IMAGE_MEAN,
        std=IMAGE_STD,
        resize=RESIZE,
        classes=None if classes is None else tuple(classes),
        model=dict(model._hub_mixin_config),  # type: ignore[arg-type]
    )


def _with_head(model: Any, facts: Facts, options: ExportOptions, quiet: bool) -> tuple[Facts, str]:
    """Add logits to the model, by a regression of its own features; and what to say of it. UserError."""
    if facts.keep_by == "map":
        raise UserError("--classify computes features of a source, and this file needs a map for each image")
    assert options.classify is not None
    part, names = open_labelled(open_images(EvaluateOptions(str(options.run), options.classify)), "--classify")
    if len(names) < 2:
        raise UserError(f"{options.classify}: all images are of one class: --classify needs at least two")
    add_metadata(model, facts.texts())
    encoder = device_encoder(options.out.name, DeviceModel(model.SerializeToString()), options.pool)
    del model.metadata_props[:]
    known = compute_features(encoder, part, batch_size=64, workers=1, quiet=quiet)
    fitted = fit_logistic(known.values, known.labels, classes=len(names))
    weights = fitted.weights[:-1] / fitted.scale[:, None]
    add_head(model, FEATURES[options.pool], weights, fitted.weights[-1] - fitted.mean @ weights)
    facts = replace(facts, classes=tuple(names))
    return facts, f"{len(names)} classes, fitted to {len(known.labels)} images of {options.classify}"


def _told(module: DeviceEncoder, facts: Facts, size: int, difference: str) -> dict[str, str]:
    height, width = facts.image_size
    outputs = [*module.outputs, *(["logits"] if facts.classes else [])]
    every = facts.grid[0] * facts.grid[1]
    kept = "all" if facts.keep_by is None else f"{facts.patches} of {every}, chosen by the {facts.keep_by}"
    return {
        "size": f"{size / 1e6:.1f} MB, {'int8' if facts.int8 else 'float32'}",
        "input": f"image uint8 [batch, {height}, {width}, 3]" + (" and map" if facts.keep_by == "map" else ""),
        "outputs": ", ".join(outputs),
        "patches": kept,
        "difference": difference,
    }
