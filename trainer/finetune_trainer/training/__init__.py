"""What a rank does with model and rows: the loop, the step, what is evaluated and what is saved."""
