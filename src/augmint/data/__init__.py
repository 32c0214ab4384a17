"""In and out: one file per on-disk layout."""
