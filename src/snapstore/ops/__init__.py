"""What can be done with a store: one module an operation, over an open repository."""
