"""``mae-cli encode``."""
