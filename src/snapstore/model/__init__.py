"""What a store's records say: pure values and functions, no input or output."""
