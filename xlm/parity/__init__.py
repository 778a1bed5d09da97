"""Does a model give the numbers it should? Imports all but the commands."""
