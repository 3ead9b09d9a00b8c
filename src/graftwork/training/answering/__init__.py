"""Tasks that the language model itself answers: what a trained model writes, and what a frozen one."""
