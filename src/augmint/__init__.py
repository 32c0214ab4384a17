"""Mints new, checked image-mask pairs from a labelled medical dataset."""
