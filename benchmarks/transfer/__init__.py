"""`push.*_ratio`: the transfer of a push beside rsync, scp and fabric's `put`, by turns."""
