"""A site in a box: real nodes, a directory and three actor processes, and one lease on them."""
