"""What ``import saliency_mae`` offers: the other rooms' functions, called from Python instead of the command line.

The highest floor: no room may import it, and ``saliency_mae.py`` looks its names up here.
"""
