"""What a push would do, before it does it; and a push exactly as it was planned."""
