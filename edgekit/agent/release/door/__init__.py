"""What an account that does not own ROOT may do: the program behind its forced command."""
