"""What an evaluation found: kept cell by cell, summed up, printed, drawn, and held against what was required."""
