"""The ladder of engines: one model in every runtime that is installed, published and ours, in every precision."""
