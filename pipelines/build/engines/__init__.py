"""Who makes the shards of a build: this machine with a model, threads without one, or a Ray cluster."""
