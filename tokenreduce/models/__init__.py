"""Video language models: one file a family; FAMILIES in `families` is the list of them."""
