"""
Local files and folders, for both directions; no request is sent to a server.

From the bottom up; a module imports from those above it here, never from those below:

===============  ================================================================
windows_handles  calls of Windows, for files that stay open while they are renamed
path_files       a substitute for `os` where folders cannot be opened: Windows
system           the system's files: `os`, or that substitute
positions        reads and writes at an offset
descriptors      open files: descriptors that cannot leak, attributes, digests
source_tree      a tree whose symbolic links are kept: no link is followed
walk             the walk through a tree for an upload
source_file      a file that an upload reads
file_objects     bytes and file objects of the caller, in place of a file
target_folder    the folders that a download writes into, and which links it follows
target_tree      the tree that a download writes into, but never outside it
planned_tree     the same tree for a dry run, which creates nothing
resume_marker    the marker of a tree that a download has begun
target_link      a link that a download creates
deletion         deletes entries that only the target has
target_file      a file that a download writes
===============  ================================================================
"""
