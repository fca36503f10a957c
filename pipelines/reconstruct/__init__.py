"""``mae-cli reconstruct``."""
