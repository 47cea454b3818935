"""When the devices of a rollout may switch."""
