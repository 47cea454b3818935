"""Brings blobs to a device: it pulls them from us through the SSH connection that a push has."""
