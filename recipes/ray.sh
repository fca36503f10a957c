#!/bin/bash
# bash recipes/ray.sh: the maps of cc3m-maps.yaml by all GPUs of a Ray cluster.
# Run it on the head node, where `ray start --head` ran. The source and the maps have to lie where every machine finds them.
set -euo pipefail
mae-cli build-saliency --config recipes/cc3m-maps.yaml --engine ray
mae-cli verify cc3m-maps
