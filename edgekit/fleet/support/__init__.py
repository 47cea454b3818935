"""A bundle for a bug report: what is taken of a device, and what is left out of it."""
