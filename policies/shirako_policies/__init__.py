"""Who gets how much (allocation), which units (assignment), how much to ask for (demand)."""
