"""Pages and tables from results."""
