"""What attacks share: surrogates, rounds, objectives, adding noise."""
