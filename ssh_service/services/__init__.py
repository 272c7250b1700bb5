"""The base of the services: mlos_bench's interface or a standalone one, and their settings."""
