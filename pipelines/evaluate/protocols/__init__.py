"""The protocols of ``mae-cli evaluate``, one file each.

A part of the room ``pipelines.evaluate``: nothing outside imports it.
"""
