"""The page: what a browser is given of the fleet, live, and the files that show it."""
