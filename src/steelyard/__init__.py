"""Losses, class weights and honest comparisons for imbalanced classes in PyTorch."""
