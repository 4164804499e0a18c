"""Steelyard inside other trainers: one small file each, imported on demand."""
