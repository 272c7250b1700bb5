"""What the services share: mlos_bench's interface or a standalone one, and the settings."""
