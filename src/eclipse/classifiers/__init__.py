"""Networks that are trained on poisoned or purified data, and the one loop that trains them."""
