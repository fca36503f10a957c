"""``--masking mlo`` in a run: options, the splits of the data, the steps, and what they cost."""
