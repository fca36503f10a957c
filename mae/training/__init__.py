"""One optimiser step and what surrounds it: checkpoints, guard, several processes, compiling.

Reads ``mae.mask_learners``, ``mae.masks`` and ``mae.models``.
"""
