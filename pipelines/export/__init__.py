"""``mae-cli export``."""
