"""What earlier runs leave for later ones: the record, the last hook's memory, a stuck unbind."""
