"""Scenes that the project draws: still ones, moving ones, and how they are drawn."""
