"""What is measured: encoders of every kind that can be named, baselines, and how fast they are."""
