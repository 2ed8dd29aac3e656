"""Floor 3: the way out to other systems."""
