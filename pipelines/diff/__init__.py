"""``mae-cli diff``."""
