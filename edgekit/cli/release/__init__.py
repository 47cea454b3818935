"""Verbs that make, sign and carry a release."""
