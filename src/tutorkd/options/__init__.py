"""Options of the commands: defaults, recipes, flags."""
