"""What is told of a rollout: its devices and counts now, and its course over time."""
