"""``mae-cli doctor``."""
