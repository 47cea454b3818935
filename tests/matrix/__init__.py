"""`python -m tests.matrix`: every text architecture of the locked builder, built and compared.

Not collected by pytest; tests/system/test_matrix.py runs a part of it.
"""
