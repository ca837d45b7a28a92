"""What earlier runs left for later ones: the record, what was seen last, a stuck unbind."""
