"""
Local files and folders, this side of a copy; no server is asked for anything.

From the bottom up; a module imports from those above it here, never from those below:

=============  ==================================================================
descriptors    what any open file has: attributes to read and to set, a digest
source_tree    a tree whose links are copied as such: none is followed
walk           a tree, as an upload goes through it
source_file    a file that an upload reads
target_folder  the folders a download writes into, which no server makes it leave
target_tree    the tree that a download writes
resume_marker  the mark of a tree that a download has begun
target_link    a link that a download makes
target_file    a file that a download writes: beside its place, then renamed
=============  ==================================================================
"""
