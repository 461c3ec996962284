"""What will work on this machine and what will not, and what to do about it."""
