"""Data sets: reading annotations, loading images, sampling, downloading; the shapes data set."""
