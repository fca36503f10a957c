"""``mae-cli build-saliency`` and ``merge``."""
