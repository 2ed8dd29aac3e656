"""Floor 6: what tests of the collector, ours and yours, stand on: a disk that fails, a clock set by hand."""
