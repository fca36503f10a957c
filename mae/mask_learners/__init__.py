"""Masks that learn beside the autoencoder, or follow it: the gate, attention, hard patches, scores of the user's own.

Reads ``mae.masks`` and ``mae.models``.
"""

GATE_FILE = "gate.safetensors"
"""The name of a trained gate's file beside its autoencoder's weights."""
