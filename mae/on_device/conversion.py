"""A graph as ONNX: from :class:`~mae.on_device.graph.DeviceEncoder` to a model that ONNX Runtime opens, in memory.

``torch.export`` traces it with a dynamic batch. From opset 23 on attention is one operator of ONNX, which spares a
small model a tenth of its time. int8 is ONNX Runtime's dynamic quantisation of the blocks: weights are rounded once,
activations by their range in each call. What chooses patches, embeds them and classifies stays float32.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mae.models.blocks import Attention
from mae.on_device.extra import needs_extra

OLDEST, USUAL = 18, 23
"""Opsets: the oldest that the exporter writes, and the one that is used if none is asked for."""

_SCOPES = "pkg.torch.onnx.name_scopes"
_LARGEST = 2**31 - 2**20
"""Bytes: no protobuf, and so no ONNX file that holds its weights, is larger than 2 GB."""


def exports_here() -> bool:
    """Whether this torch can export these graphs with a batch of any size; those before 2.9 take its size for fixed."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)


def to_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    opset: int | None = None,
    dynamic: tuple[dict[int, Any], ...] | None = None,
) -> Any:
    """The ``onnx.ModelProto`` of a module in evaluation mode; the first axis of ``inputs`` is the batch, of any size.

    ``names`` are those of the inputs and of the outputs; ``dynamic`` has what else may vary, as ``torch.export`` takes
    it. Without ``opset`` it is USUAL, or the oldest where this torch does not know attention as an operator. ValueError
    for an opset that can't be written, a model beyond 2 GB, and where the extra is missing.
    """
    onnx = needs_extra("onnx", "onnxscript")
    if not exports_here():
        raise ValueError(f"an export to ONNX needs torch 2.9 or newer, and this is {torch.__version__}")
    size = sum(each.numel() * each.element_size() for each in module.parameters())
    if size > _LARGEST:
        raise ValueError(f"the weights take {size / 1e9:.1f} GB, and one ONNX file holds at most 2 GB")
    asked, opset = opset, opset or (USUAL if _knows_attention() else OLDEST)
    if not OLDEST <= opset <= onnx.defs.onnx_opset_version():
        raise ValueError(f"--opset is {opset}; it must be from {OLDEST} to {onnx.defs.onnx_opset_version()}")
    batch = torch.export.Dim("batch")
    with torch.no_grad(), _quiet(), _fused_attention(module, wanted=opset >= 23):
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            verbose=False,
            input_names=list(names[0]),
            output_names=list(names[1]),
            dynamic_shapes=dynamic or tuple({0: batch} for _ in inputs),
            opset_version=opset,
            external_data=False,
        )
    assert program is not None
    model = program.model_proto
    written = next(each.version for each in model.opset_import if not each.domain)
    if asked and written != asked:
        raise ValueError(f"--opset {opset}: this torch writes opset {written} in its place; leave it out")
    return model


def quantised(model: Any) -> Any:
    """The ``onnx.ModelProto`` with the products of its blocks in int8, by weights of a range for each output."""
    onnx = needs_extra("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kept = [node.name for node in model.graph.node if not _in_blocks(node)]
    with TemporaryDirectory() as folder, _quiet():
        file = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, file, ["MatMul"], per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=kept
        )  # fmt: skip
        return onnx.load(file)


def without_traces(model: Any) -> Any:
    """The model without what the exporter notes on it, such as the places of source files on this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    del model.functions[:]
    return model


def add_head(model: Any, features: str, weights: Tensor, bias: Tensor) -> None:
    """Append ``logits`` float32 [B, classes]: the output ``features`` [B, D] · weights [D, classes] + bias."""
    onnx = needs_extra("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    for name, value in (("head.weight", weights), ("head.bias", bias)):
        model.graph.initializer.append(numpy_helper.from_array(value.detach().cpu().numpy(), name))
    model.graph.node.extend(
        [
            helper.make_node("MatMul", [features, "head.weight"], ["head.product"], "head_product"),
            helper.make_node("Add", ["head.product", "head.bias"], ["logits"], "head_bias"),
        ]
    )
    shape = ["batch", weights.shape[1]]
    model.graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape))


def add_metadata(model: Any, facts: Mapping[str, str]) -> None:
    """Write facts into the model, which ``InferenceSession.get_modelmeta().custom_metadata_map`` gives again."""
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)


def _in_blocks(node: Any) -> bool:
    """Whether a node is of the encoder's or the decoder's blocks, by the modules that it came from."""
    scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "")
    return "model.blocks." in scopes or "model.decoder_blocks." in scopes


def _knows_attention() -> bool:
    """Whether torch has ONNX's operator, which came with 2.8."""
    return hasattr(getattr(torch.onnx, "ops", None), "attention")


class _FusedAttention(nn.Module):
    """:class:`mae.models.blocks.Attention` as the operator of ONNX, which splits and joins the heads itself."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.num_heads

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """As ``Attention``; every token has an output where an encoder or decoder is exported."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        seen = torch.onnx.ops.attention(
            query[:, skip:], key, value, q_num_heads=self.heads, kv_num_heads=self.heads
        )[0]  # fmt: skip
        out: Tensor = self.proj(seen)
        return out


@contextmanager
def _fused_attention(module: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Within it the attention of a module's blocks is ONNX's own operator, where torch knows it."""
    wanted = wanted and _knows_attention()
    holders = [each for each in module.modules() if wanted and isinstance(getattr(each, "attn", None), Attention)]
    plain = [holder.attn for holder in holders]
    for holder in holders:
        holder.attn = _FusedAttention(holder.attn)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for holder, attention in zip(holders, plain, strict=True):
            holder.attn = attention


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it the exporter and the quantiser say nothing of their own inner workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
    loggers[-1] = logging.getLogger()
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
