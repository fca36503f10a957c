"""MLO-MAE: nested problems, their hypergradients, and the three levels that learn a mask from labels.

Reads ``mae.training``.
"""
