"""What a package of another author adds to eclipse; docs/extend.md shows its files."""
