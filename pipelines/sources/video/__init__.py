"""Video files and folders of frames: decoded by time, upright, with square pixels.

A part of ``pipelines.sources``.
"""
