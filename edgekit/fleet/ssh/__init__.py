"""SSH as OpenSSH does it: where a destination leads, whose host key it must show, how to log in."""
