"""What benchmarks share: a deployment of three actors, lives that are led on it, and reports."""
