"""The presets that are shipped, one TOML file each; read by `tokenreduce.shipped`."""
