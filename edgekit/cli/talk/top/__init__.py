"""`edgekit top`: the devices of a broker, live."""
