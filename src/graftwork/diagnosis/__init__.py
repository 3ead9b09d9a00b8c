"""What a search has decided, what that means, and the floor under every task."""
