"""Videos to frames, in a child process that is the only one to open them."""
