"""What a run keeps on the disk: files written whole, its manifest, its unfinished state."""
