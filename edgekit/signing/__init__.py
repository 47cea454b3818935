"""The controller's side of trust: keys, and the metadata that says which releases may run (TUF)."""
