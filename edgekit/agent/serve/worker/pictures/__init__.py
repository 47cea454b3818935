"""Pictures in the worker: a stranger's bytes become pixels, and a crop's features become rows.

Nothing here knows the runtime. Pillow is imported with `read`, so only by a worker whose model
takes pictures.
"""
