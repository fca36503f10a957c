"""``mae-cli verify``."""
