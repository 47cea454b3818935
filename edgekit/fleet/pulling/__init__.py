"""Devices that nobody connects to: they are told by a broker what to run, and pull it."""
