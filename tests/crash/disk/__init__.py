"""What stands between the device's code and its disk, and what a disk keeps."""
