"""What the operator asks for: the charm's options, parsed once into frozen values."""
