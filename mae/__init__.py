"""Masks, models and training of masked autoencoders. Scores come in as tensors, wherever they were made."""
