"""Who may say what a device runs: pinned manifests, and TUF metadata (theupdateframework.io)."""
