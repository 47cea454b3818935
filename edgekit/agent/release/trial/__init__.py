"""The trial of a release: the machine, what it asks for, and what it does to the disk."""
