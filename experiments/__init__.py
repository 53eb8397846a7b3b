"""One file per question, each run by `python -m experiments.<name>`: a table, a figure and a one-line verdict."""
