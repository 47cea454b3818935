"""Stories of the protocol as data, and what runs them."""
