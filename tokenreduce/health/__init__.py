"""What `tokenreduce doctor` looks at: the installation, the device, decoders, files and folders."""
