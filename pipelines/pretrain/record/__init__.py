"""What a training leaves behind: log, trackers, speed, pictures, and why it stopped."""
