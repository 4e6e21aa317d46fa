"""What the merge job is made of: folding weights, the folder, the proof."""
