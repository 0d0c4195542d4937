"""The disk: a segmented write-ahead log and snapshot files."""
