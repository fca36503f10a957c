"""Models as one file for small machines: the graph, its export to ONNX, int8, sessions and latency.

A room of ``mae``; ``onnx`` and ``onnxruntime`` are imported where they are used, for they are an extra.
"""
