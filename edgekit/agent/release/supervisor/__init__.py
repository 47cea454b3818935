"""What keeps the agent running: the supervisor's process, and what starts it."""
