"""From blobs to a whole release folder, or nothing: permission, layers, trees, libraries."""
