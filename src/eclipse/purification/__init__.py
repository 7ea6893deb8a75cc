"""The method: Algorithm 1, the compensation, images in memory and data sets as streams."""
