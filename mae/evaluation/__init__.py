"""What an encoder is worth: probes, fine-tuning, segmentation, propagation, occluders, intervals.

Reads ``mae.models``.
"""
