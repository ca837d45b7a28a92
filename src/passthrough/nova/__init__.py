"""What Nova knows and is told, release by release."""
