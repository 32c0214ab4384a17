"""Arrays only, no learning: intensity, geometry, grids."""
