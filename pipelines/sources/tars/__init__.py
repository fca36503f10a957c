"""WebDataset tars: indexed once, read where the images lie.

A part of ``pipelines.sources``.
"""
