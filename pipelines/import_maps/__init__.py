"""``mae-cli import-maps``."""
