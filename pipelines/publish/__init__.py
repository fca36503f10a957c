"""``mae-cli publish``."""
