"""Running a script on a host: how it gets there, what it reads and writes, how it ends."""
