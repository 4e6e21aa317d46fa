"""What the evaluate job is made of: questions, answers, scores, a verdict."""
