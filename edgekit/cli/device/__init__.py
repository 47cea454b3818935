"""Verbs of the devices themselves."""
