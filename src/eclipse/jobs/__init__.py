"""What each command does: a job a file, one life cycle."""
