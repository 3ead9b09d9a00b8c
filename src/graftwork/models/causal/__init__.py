"""Language models that write: their loss on answers, their answers, and how these are scored."""
