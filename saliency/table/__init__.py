"""Maps on disk: Parquet rows, manifest, checks of a folder, the card of a published one.

Reads nothing of ``saliency.towers`` or ``saliency.methods``.
"""
