"""Result files, read and put side by side."""
