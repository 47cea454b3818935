"""Stand-alone scripts, run by path with the toolchain's interpreter.

They import the standard library and the toolchain, never edgekit; edgekit never imports them.
"""
