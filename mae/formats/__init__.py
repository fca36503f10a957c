"""Weights as other libraries name them: facebookresearch/mae, timm, transformers' ViTMAE and VideoMAE.

Reads ``mae.models``.
"""
