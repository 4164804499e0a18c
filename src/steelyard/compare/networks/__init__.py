"""Losses compared with the user's own network and loop."""
