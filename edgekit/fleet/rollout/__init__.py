"""A release goes to many devices in waves: a machine, and the journal from which it goes on."""
