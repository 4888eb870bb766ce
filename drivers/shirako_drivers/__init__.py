"""What configures nodes: one module a kind of resource, its templates beside it."""
