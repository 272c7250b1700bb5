"""What the three services share: mlos_bench's interface, or our own where it is not installed."""
