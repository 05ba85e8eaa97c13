"""Pizza delivery: the kitchen, the courier and the customer answer over HTTP, by signed links."""
