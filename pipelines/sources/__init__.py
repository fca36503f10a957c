"""Any place that holds images or videos, opened as a ``Source``.

Every room above may import it; it reads ``pipelines.commandline`` alone.
"""
