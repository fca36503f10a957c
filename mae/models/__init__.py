"""The networks: ViT autoencoder, its video form, their blocks; what a mask is.

Imports no other room of ``mae``.
"""
