"""One HTML page about what a command left in its folder."""
