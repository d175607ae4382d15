"""Kata's contract for direct-assigned volumes: its oddities are written down here and nowhere else."""
