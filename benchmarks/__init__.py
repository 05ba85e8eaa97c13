"""How fast flowstate is on this machine, beside what its stores can do: see README.md."""
