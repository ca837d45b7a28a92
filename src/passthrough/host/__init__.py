"""What the host has and uses, read and never changed."""
