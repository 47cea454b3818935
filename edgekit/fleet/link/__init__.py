"""The link to one device: commands, bytes and verbs over SSH, or in a folder of this host."""
