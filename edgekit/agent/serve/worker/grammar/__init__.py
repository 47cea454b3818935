"""Grammars of answers: compiled beside the decoding, and followed token by token.

Only `compiler` imports llguidance, at the first prompt that wants a grammar.
"""
