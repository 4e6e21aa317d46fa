"""One style for all examples: rules, presets, and whether answers keep to them."""
