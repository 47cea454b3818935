"""Verbs that ask devices, and the doors to them."""
