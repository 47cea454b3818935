"""The crash matrix: every state of a device, every call of the file system, every fault.

`disk` stands between the device's code and the disk, and knows what a power cut keeps. `bundles`
are releases of few bytes, `world` has a supervisor of few lines, `states` and `acts` are the
tables, `bench` makes devices and remembers what was checked, `cases` runs one case, `damage` has
the cases that are no calls, `matrix` runs all, `real` cuts real processes. docs/adr/0026 says how
it works and what it found.
"""
