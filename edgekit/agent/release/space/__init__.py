"""The room on a device: what a release needs, what stays, and the reserve for the way back."""
