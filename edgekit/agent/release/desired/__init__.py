"""A device that pulls: from what a broker says to a release that its signed metadata permits."""
