"""Which devices there are and which are meant: groups, selections, Ansible's inventories."""
