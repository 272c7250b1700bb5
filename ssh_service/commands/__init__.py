"""Running a script on a host: how the script is sent, its input and output, and its end."""
