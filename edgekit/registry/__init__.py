"""A registry of the OCI Distribution specification, as a client; standard library alone."""
