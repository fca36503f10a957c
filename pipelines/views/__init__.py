"""From a source to tensors: crops and flips, clips, maps joined to images, labels.

Reads ``pipelines.sources``.
"""
