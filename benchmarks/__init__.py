"""Speed and memory, beside peers. Nothing of the package imports this folder."""
