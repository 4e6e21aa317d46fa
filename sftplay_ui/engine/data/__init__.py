"""From a person's own file to examples on disk: reading, recognising shapes, splitting, processing."""
