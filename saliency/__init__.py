"""Saliency maps of image–caption pairs: made (towers, gradcam), stored (maps, table), judged (quality)."""

__version__ = "0.1.0"
