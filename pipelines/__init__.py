"""The jobs a user runs, one file each: the only rooms that know both the saliency maps and the autoencoder."""
