"""``mae-cli inspect``: maps, runs and sources described, maps scored."""
