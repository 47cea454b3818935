"""Verbs that make a model folder."""
