"""Visual tokens kept on disk between questions; knows neither videos nor models.

digest    which file it is, by its whole content
head      what an entry says of itself; its file's header
tensors   an entry's tensors, written and read with their digests
index     order of use, and digests of files already read: all of it dispensable
folder    where the files lie; the only part that names, renames and deletes them
store     what is used from outside: look up, load, save, prune
"""
