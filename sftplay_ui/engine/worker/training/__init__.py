"""What the train job is made of: the plan of batches, a step, its memory, its end."""
