"""`doctor`: what of this machine and of a project would stop a newcomer, and what mends it."""
