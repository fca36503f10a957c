"""Hidden pixels filled in, of an image, a clip or an endless stream.

Reads ``mae.models``.
"""
