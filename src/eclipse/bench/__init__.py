"""Grids of attacks, defenses, victims and seeds, run cell by cell."""
