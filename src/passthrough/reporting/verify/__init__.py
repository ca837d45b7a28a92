"""The checks of the verify action: what was seen, whether it is right, and the way out."""
