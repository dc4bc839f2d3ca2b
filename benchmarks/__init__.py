"""Speed, size and memory of `snap` beside other tools, on data that nobody here wrote."""
