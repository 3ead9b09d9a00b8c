"""The Hugging Face hub: which names are its, what is fetched from it, and what is sent there."""
