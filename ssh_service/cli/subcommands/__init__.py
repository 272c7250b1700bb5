"""
The subcommands as click sees them: options, arguments and help; one module for each kind.

A module imports what does the work only when its command runs, so that ``--help`` is fast.
"""
