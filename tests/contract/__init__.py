"""One suite for each boundary, run by the real thing and by its stand-in."""
