"""``mae-cli compare``."""
