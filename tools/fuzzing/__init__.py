"""Fuzzing of every reader of files that come from outside."""
