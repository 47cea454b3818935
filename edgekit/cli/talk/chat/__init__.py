"""`edgekit chat`: a conversation with a device in the terminal."""
