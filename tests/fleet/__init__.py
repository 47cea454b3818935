"""A fleet of real devices on this machine: for tests, for counts, and for a person (`make fleet`).

`place` gives a fleet its names and takes down what a dead one left, `network` joins the devices
and loses packets, `devices` starts them, `project` has the verbs that make them a fleet.
"""
