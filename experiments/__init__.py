"""One file a question, each `python -m experiments.<name>`: a table, a figure and one line of verdict."""
