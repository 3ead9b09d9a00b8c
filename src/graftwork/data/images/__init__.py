"""Images of rows: found and checked when a task is read, turned into pixels when a batch is made."""
