"""``mae-cli export-maps``."""
