"""Floor 2: what is on disk, and what is true about it. The formats stand in docs/formats.md."""
