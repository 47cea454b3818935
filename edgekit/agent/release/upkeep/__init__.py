"""What a device does in idle time: it collects garbage and hashes its disk again."""
