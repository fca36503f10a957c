"""How a map is made from a tower: one file a method, one row a method in ``methods.METHODS``.

Reads ``saliency.towers``; knows nothing of tables.
"""
