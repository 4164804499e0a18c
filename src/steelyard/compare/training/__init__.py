"""Trainings of the user's own network and loop: what `networks` and `trainings` compare."""
