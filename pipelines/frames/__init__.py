"""Endless streams of frames, read and written: files, URLs, pipes, folders.

Reads ``pipelines.sources``.
"""
