"""An account with sshd becomes a device that comes back after a power cut, and an account again."""
