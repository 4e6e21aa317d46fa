"""From a person's file to examples on disk: reading, recognising shapes, splitting, processing."""
