"""``mae-cli demo``: all of it on built-in scenes."""
