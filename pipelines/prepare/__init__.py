"""``mae-cli prepare``."""
