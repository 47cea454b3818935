"""A rollout as one HTML page that opens without a network, with a picture of it over time."""
