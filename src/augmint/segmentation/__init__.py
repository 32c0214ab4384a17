"""Segmentation networks: what they are built of, fitted on and asked for."""
