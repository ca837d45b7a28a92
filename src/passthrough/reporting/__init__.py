"""Words for people and plain values for programs, made of values in one place."""
