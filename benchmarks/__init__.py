"""The figures edgekit promises, each measured the same way on any machine.

`figure` says what a figure is, `agent`, `push` and `demo` measure, `rig` holds what they measure
on, `broker` runs a Mosquitto, `bare` the runtime without edgekit; `render` shows results. See
docs/figures.md.
"""
