"""What is in the pools and where this node has it, for whoever shows it: the command line, a page."""
