"""``mae-cli pretrain``."""
