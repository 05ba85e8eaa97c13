"""What stores can do at most: bare loops without flowstate, that write what a commit writes."""
