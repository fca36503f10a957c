"""Built-in scenes, still and moving, which need no files.

A part of ``pipelines.sources``.
"""
