"""How a mask is chosen by noise and by maps, and the table of all strategies.

Reads ``mae.models``.
"""
