"""Floor 4: the doors for eyes, on the admin listener."""
