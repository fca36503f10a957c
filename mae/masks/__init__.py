"""How a mask is chosen: by noise, by maps, or by a network that learns beside the autoencoder.

Reads ``mae.models``.
"""
