"""Which task each row of a batch belongs to."""
